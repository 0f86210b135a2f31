"""Colour transfer by Sinkhorn: one photograph in the colours of another.

Colours x_i of one picture are transported to colours z_j of the other at the cost |x_i - z_j|^2. The plan's potentials
g extend to a map of every colour, by which all pixels are moved:

    T(x) = sum_j z_j p_j(x),    p_j(x) ~ b_j exp((g_j - |x - z_j|^2) / eps)

The known answers: at the x_i that is the mean of the plan's rows, and the gradient of the transport cost W in the
colours is 2 a_i (x_i - T(x_i)), so that a gradient flow of W moves colours along the map.

Run: python examples/colour_transfer.py [PICTURE.png]
"""

import sys
import warnings

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

from deqzoo.implicit import Transport, sinkhorn

EPS, COLOURS = 0.01, 80


def pictures() -> tuple[Tensor, Tensor]:
    """Two photographs that scikit-learn ships, (rows, columns, 3), in [0, 1], at a quarter of their size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about how scikit-learn calls it
        found = [torch.from_numpy(load_sample_image(f"{name}.jpg").copy()) for name in ("china", "flower")]
    return found[0][::4, ::4].double() / 255, found[1][::4, ::4].double() / 255


def some_colours(picture: Tensor) -> Tensor:
    """Pixels drawn at random, (COLOURS, 3)."""
    pixels = picture.reshape(-1, 3)
    return pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:COLOURS]]


def transport(x: Tensor, z: Tensor) -> Transport:
    """Between the colours x and z, of equal weights."""
    equal = torch.full((COLOURS,), 1 / COLOURS, dtype=torch.float64)
    return sinkhorn((x[:, None] - z).square().sum(dim=2), equal, equal, epsilon=EPS)


def colour_map(colours: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """T of each colour, (n, 3)."""
    return torch.softmax((g - torch.cdist(colours, z) ** 2) / EPS, dim=1) @ z


def main() -> dict[str, float]:
    """Relative errors of the map, of the gradient of W, and of the colours' mean after the transport."""
    x, z = map(some_colours, pictures())
    x.requires_grad_()
    found = transport(x, z)
    (gradient,) = torch.autograd.grad(found.value, x)
    x = x.detach()
    moved = colour_map(x, z, found.g.detach())
    pairs = {
        "map and plan": (moved, COLOURS * found.plan.detach() @ z),
        "gradient of the cost": (gradient, 2 * (x - moved) / COLOURS),
        "mean of the moved colours": (moved.mean(dim=0), z.mean(dim=0)),
    }
    return {name: float((found - known).norm() / known.norm()) for name, (found, known) in pairs.items()}


def draw_picture(file: str) -> None:
    """Both photographs, and the first in the colours of the second."""
    from matplotlib.figure import Figure

    first, second = pictures()
    z = some_colours(second)
    g = transport(some_colours(first), z).g
    moved = colour_map(first.reshape(-1, 3), z, g).reshape(first.shape)
    figure = Figure((7.5, 1.9), layout="constrained")
    for axes, picture in zip(figure.subplots(1, 3), (first, second, moved), strict=True):
        axes.imshow(picture)
        axes.set_axis_off()
    figure.savefig(file, dpi=80)


if __name__ == "__main__":
    for name, error in main().items():
        print(f"{name:26s} relative error {error:.1e}")
    if len(sys.argv) > 1:
        draw_picture(sys.argv[1])
