"""Inverse rendering: the pose of a mesh from its silhouette, and how the pose depends on each pixel.

    S_p(pose) = 1 - prod_f (1 - sigmoid(d_f(p) / s))        in each pixel p, over the faces f of the mesh

d_f is the distance of the pixel from the rim of the projected face, positive inside, so that S is 1 well within the
mesh, 0 without, and smooth over a width of s. The pose, a rotation vector and a translation, is

    argmin  1/2 sum_p (S_p(pose) - image_p)^2,    d pose / d image = (J^T J)^-1 J^T at a perfect fit,    J = dS/d pose

`least_squares` finds it and differentiates it in the image. The known answers: the pose from which the image was
rendered; and (J^T J)^-1 J^T with J by differences of renderings.

Source: Liu et al., "Soft Rasterizer: A Differentiable Renderer for Image-based 3D Reasoning", 2019.

Run: python examples/inverse_rendering.py [PICTURE.png]
"""

import sys

import torch
from torch import Tensor

from deqzoo.implicit import least_squares

WIDTH, SOFTNESS, DISTANCE = 24, 0.05, 4.0
TRUTH = torch.tensor([0.53, -0.7, 0.3, 0.1, -0.15, 0.2], dtype=torch.float64)  # radians; lengths
GUESS = torch.tensor([0.2, -0.4, 0.0, -0.1, 0.1, 0.0], dtype=torch.float64)


def box() -> Tensor:
    """Twelve triangles, (12, 3 corners, 3)."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    squares = torch.tensor([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    triangles = torch.cat([squares[:, [0, 1, 2]], squares[:, [0, 2, 3]]])
    return (corners * torch.tensor([0.8, 0.55, 0.3], dtype=torch.float64))[triangles]


def pixels() -> Tensor:
    """The centres, (WIDTH^2, 2)."""
    x = torch.linspace(-1.4, 1.4, WIDTH, dtype=torch.float64)
    return torch.cartesian_prod(x, x)


def render(pose: Tensor) -> Tensor:
    """S, (WIDTH^2,), through a pinhole at `DISTANCE` above the origin, looking down."""
    a, b, c = pose[:3]
    zero = torch.zeros_like(a)
    rotation = torch.linalg.matrix_exp(torch.stack([zero, -c, b, c, zero, -a, -b, a, zero]).reshape(3, 3))
    points = box() @ rotation.T + pose[3:]
    corners = points[..., :2] * DISTANCE / (DISTANCE - points[..., 2:])
    along = corners.roll(-1, dims=1) - corners
    offsets = pixels()[:, None, None] - corners  # (pixels, faces, corners, 2)
    share = ((offsets * along).sum(dim=3) / along.square().sum(dim=2)).clamp(0, 1)  # of the nearest point of an edge
    distance = (offsets - share[..., None] * along).norm(dim=3).amin(dim=2)
    side = (along[..., 0] * offsets[..., 1] - along[..., 1] * offsets[..., 0]).sign().sum(dim=2)
    inside = torch.where(side.abs() == 3, 1, -1)
    return 1 - torch.sigmoid(-inside * distance / SOFTNESS).prod(dim=1)


def find_pose(image: Tensor) -> Tensor:
    """The pose, a differentiable function of the image."""
    return least_squares(lambda pose, image: render(pose) - image, GUESS, image)


def known_derivative() -> Tensor:
    """d pose / d image, (6, pixels), by differences of fourth order."""
    columns, step = [], 1e-4  # within which no pixel crosses a kink of its distance to the faces
    for direction in step * torch.eye(6, dtype=torch.float64):
        a, b, c, d = (render(TRUTH + k * direction) for k in (-2, -1, 1, 2))
        columns.append((a - 8 * b + 8 * c - d) / (12 * step))
    return torch.linalg.pinv(torch.stack(columns, dim=1))


def main() -> dict[str, float]:
    """Relative errors of the pose and of its derivative in the image."""
    image = render(TRUTH)
    pose, derivative = find_pose(image), torch.func.jacrev(find_pose)(image)
    spread = 0.01 * derivative.norm(dim=1)
    for name, value, deviation in zip(("turn",) * 3 + ("shift",) * 3, pose, spread, strict=True):
        print(f"{name:5s} {value:7.4f}, with a standard deviation of {deviation:.4f} under noise of 0.01 in each pixel")
    known = known_derivative()
    return {
        "pose": float((pose - TRUTH).norm() / TRUTH.norm()),
        "derivative in the image": float((derivative - known).norm() / known.norm()),
    }


def draw_picture(file: str) -> None:
    """The image, the guess, the image by the pose that was found, and the pixels on which a turn depends."""
    from matplotlib.figure import Figure

    image = render(TRUTH)
    pose, derivative = find_pose(image), torch.func.jacrev(find_pose)(image)
    panels = {"image": image, "guess": render(GUESS), "found": render(pose), "d turn / d image": derivative[2]}
    figure = Figure((7.5, 2.1), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        most = float(values.abs().max())
        options = {"cmap": "coolwarm", "vmin": -most, "vmax": most} if title.startswith("d") else {"cmap": "gray"}
        axes.imshow(values.reshape(WIDTH, WIDTH).T, origin="lower", **options)
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
