"""Densities in the plane, and points drawn from them; images that a flow drew."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from deqzoo.plots.figure import COLORS, panels, save


def plot_density(pictures: Mapping[str, Tensor], samples: Mapping[str, Tensor], limit: float, path: Path) -> Path:
    """Draw densities side by side, in one scale of colours, and points beside them.

    Args:
        pictures: (cells, cells) each, the density in equal cells of [-limit, limit]^2, the first axis across.
        samples: (N, 2) each.
        limit: of the axes.
        path: of the PNG.
    """
    figure, axes = panels(len(pictures) + len(samples), "Density and samples")
    highest = max(picture.max().item() for picture in pictures.values())
    for axis, (name, picture) in zip(axes, pictures.items(), strict=False):
        extent = (-limit, limit, -limit, limit)
        axis.grid(False)
        shown = axis.imshow(picture.T, origin="lower", extent=extent, cmap="Blues", vmin=0, vmax=highest)
        axis.set_title(name)
    figure.colorbar(shown, ax=axes[: len(pictures)], label="density")
    for axis, (name, points) in zip(axes[len(pictures) :], samples.items(), strict=True):
        axis.scatter(points[:, 0], points[:, 1], s=2, color=COLORS[0])
        axis.set(title=name, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    for axis in axes:
        axis.set(xlabel=r"$x_1$", ylabel=r"$x_2$")
    return save(figure, path)


def plot_images(images: Mapping[str, Tensor], path: Path, columns: int = 10) -> Path:
    """Draw images (N, C, H, W) in [0, 1] as tiles, a panel for each name; of several channels the first is drawn."""
    figure, axes = panels(len(images), "Images")
    for axis, (name, batch) in zip(axes, images.items(), strict=True):
        rows = len(batch) // columns
        framed = F.pad(batch[: rows * columns, 0], (1, 1, 1, 1), value=0.5)
        tiles = framed.unflatten(0, (rows, columns)).permute(0, 2, 1, 3)
        axis.imshow(tiles.flatten(2).flatten(0, 1), cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(name)
        axis.set_axis_off()
    return save(figure, path)
