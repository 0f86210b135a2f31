"""Images beside what was measured of them, and what was made of that."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deqzoo.plots.figure import save


def plot_restored(images: Mapping[str, Tensor], path: Path) -> Path:
    """Draw images (N, C, H, W) of pixels in [0, 1], one or three channels: a row for each name."""
    from matplotlib.figure import Figure

    columns = len(next(iter(images.values())))
    figure = Figure(figsize=(1.3 * columns + 1.2, 1.35 * len(images)), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, (name, batch) in zip(axes, images.items(), strict=True):
        for axis, image in zip(row, batch.clamp(0, 1), strict=True):
            pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize="small")
    return save(figure, path)
