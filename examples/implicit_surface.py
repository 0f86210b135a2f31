"""An implicit surface seen by rays: depths are roots, and the shape is found from them.

    g(p) = (|p_xy| - R)^2 + p_z^2 - r^2 = 0,    p = Q (o + t d)

A torus, seen by parallel rays from points o along d; Q turns space by an angle. The depth t of a ray is the first root
of g along it. It is enclosed by samples, and `root` with a bracketing solver finds it for all rays at once. Its
derivatives are those of the implicit function theorem:

    dt/dR = 2 (|p_xy| - R) / <grad g, Q d>,    dt/dr = 2 r / <grad g, Q d>

The known answers: t by the roots of a polynomial of degree four (NumPy), and these two derivatives. `least_squares`
then recovers radii and angle from the depths; the rays that miss the torus of a guess have no say in its step.

Source: Niemeyer et al., "Differentiable Volumetric Rendering: Learning Implicit 3D Representations without 3D
Supervision", 2020.

Run: python examples/implicit_surface.py [PICTURE.png]
"""

import sys

import numpy as np
import torch
from torch import Tensor

from deqzoo.implicit import Chandrupatla, least_squares, root

TRUTH, GUESS = (torch.tensor(x, dtype=torch.float64) for x in ((1.0, 0.4, 0.6), (0.9, 0.5, 0.4)))  # R, r, angle
FAR = 4.0  # the length of the rays


def rays(width: int) -> tuple[Tensor, Tensor]:
    """Starts o, (width^2, 3), above the scene, and the direction d, downwards."""
    x = torch.linspace(-1.5, 1.5, width, dtype=torch.float64)
    plane = torch.cartesian_prod(x, x)
    return torch.cat([plane, torch.full_like(plane[:, :1], FAR / 2)], dim=1), torch.tensor([0.0, 0.0, -1.0]).double()


def turned(p: Tensor, angle: Tensor) -> Tensor:
    """Q p, by an angle about the first axis."""
    x, y, z = p.unbind(dim=-1)
    return torch.stack([x, angle.cos() * y + angle.sin() * z, angle.cos() * z - angle.sin() * y], dim=-1)


def surface(p: Tensor, shape: Tensor) -> Tensor:
    """g of points (..., 3)."""
    x, y, z = turned(p, shape[2]).unbind(dim=-1)
    return ((x**2 + y**2).sqrt() - shape[0]) ** 2 + z**2 - shape[1] ** 2


def depths(shape: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """t of each ray, differentiable in the shape, and which rays see the surface (t of the others means nothing)."""
    samples = torch.linspace(0, FAR, 81, dtype=torch.float64)
    inside = surface(o[:, None] + samples[:, None] * d, shape.detach()) < 0
    sees, first = inside.any(dim=1), inside.long().argmax(dim=1)
    low, high = torch.where(sees, samples[first - 1], 0.0), torch.where(sees, samples[first], FAR)

    def condition(t: Tensor, shape: Tensor) -> Tensor:
        return torch.where(sees, surface(o + t[:, None] * d, shape), 1 - t)

    solver = Chandrupatla(low=low, high=high)
    return root(condition, low, shape, solver=solver, batch_dims=1, tags=("symmetric",)), sees


def known_depths(o: Tensor, d: Tensor) -> Tensor:
    """t of the true torus: the smallest real root of (|p|^2 + R^2 - r^2)^2 - 4 R^2 |p_xy|^2."""
    R, r, angle = TRUTH
    starts, (a, b, c) = turned(o, angle).numpy(), turned(d, angle).tolist()
    found = []
    for x, y, z in starts:
        p = [np.poly1d(pair) for pair in ((a, x), (b, y), (c, z))]
        flat = p[0] ** 2 + p[1] ** 2
        roots = ((flat + p[2] ** 2 + float(R**2 - r**2)) ** 2 - 4 * float(R**2) * flat).roots
        found.append(min(roots[abs(roots.imag) < 1e-6].real))
    return torch.tensor(found, dtype=torch.float64)


def known_derivatives(t: Tensor, o: Tensor, d: Tensor) -> Tensor:
    """dt/dR and dt/dr, (rays, 2), of the true torus."""
    R, r, angle = TRUTH
    p = turned(o + t[:, None] * d, angle)
    width = p[:, :2].norm(dim=1)
    ring = torch.cat([p[:, :2] * (1 - R / width)[:, None], p[:, 2:]], dim=1)
    slope = 2 * ring @ turned(d, angle)
    return torch.stack([2 * (width - R) / slope, 2 * r / slope], dim=1)


def main() -> dict[str, float]:
    """Relative errors of depths, of their derivatives, and of the shape that is found from them."""
    o, d = rays(24)
    t, sees = depths(TRUTH, o, d)
    slope = torch.func.grad(lambda t: surface(o + t[:, None] * d, TRUTH).sum())(t)
    o = o[sees & (slope < -0.2)]  # without grazing rays, whose depths are ill-conditioned
    seen = known_depths(o, d)
    jacobian = torch.func.jacrev(lambda shape: depths(shape, o, d)[0])(TRUTH)[:, :2]

    def residual(shape: Tensor, seen: Tensor) -> Tensor:
        found, sees = depths(shape, o, d)
        return torch.where(sees, found - seen, 0.0)

    shape = least_squares(residual, GUESS, seen)
    print(f"R, r and angle by {len(o)} depths: {shape.numpy().round(6)}, from {GUESS.numpy()}")
    pairs = {
        "depths": (depths(TRUTH, o, d)[0], seen),
        "derivatives in the radii": (jacobian, known_derivatives(seen, o, d)),
        "shape": (shape, TRUTH),
    }
    return {name: float((found - known).norm() / known.norm()) for name, (found, known) in pairs.items()}


def draw_picture(file: str) -> None:
    """The torus in the light of its normals, and the derivatives of its depths."""
    from matplotlib.figure import Figure

    o, d = rays(100)
    t, sees = depths(TRUTH, o, d)
    normals = torch.func.grad(lambda p: surface(p, TRUTH).sum())(o + t[:, None] * d)
    light = torch.tensor([-0.4, 0.5, 0.77], dtype=torch.float64)
    jacobian = torch.func.jacfwd(lambda shape: depths(shape, o, d)[0])(TRUTH)
    panels = {"shading": torch.nn.functional.normalize(normals, dim=1) @ light}
    panels |= {f"dt / d {name}": jacobian[:, k] for k, name in enumerate(("R", "r", "angle"))}
    figure = Figure((7.5, 2.1), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        picture = torch.where(sees, values, torch.nan).reshape(100, 100).T
        options = {"cmap": "gray", "vmin": 0} if title == "shading" else {"cmap": "coolwarm", "vmin": -3, "vmax": 3}
        axes.imshow(picture, origin="lower", **options)
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(file, dpi=90)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
