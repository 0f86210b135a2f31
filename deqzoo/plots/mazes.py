"""Mazes, and how an equilibrium finds the way through them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save, save_animation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

_WALL = torch.tensor((0.25, 0.25, 0.28))


def plot_mazes(
    over_nfe: Mapping[int, Mapping[int, float]], over_size: Mapping[str, Mapping[int, float]], side: int, path: Path
) -> Path:
    """Draw the shares of whole mazes that are right.

    Args:
        over_nfe: by evaluations of the cell, for each side of the mazes.
        over_size: by that side, for each network.
        side: of the largest mazes of the training.
    """
    figure, axes = panels(2, "Whole mazes right, over evaluations and over size")
    for color, (cells, points) in zip(COLORS, over_nfe.items(), strict=False):
        axes[0].plot(list(points), [100 * share for share in points.values()], color=color, marker="o", markersize=3)
        axes[0].lines[-1].set_label(f"{cells} x {cells} cells")
    axes[0].set(xlabel="evaluations of the cell (NFE)", xscale="log")
    axes[0].set_xticks(sorted({count for points in over_nfe.values() for count in points}), minor=False)
    axes[0].minorticks_off()
    axes[0].xaxis.set_major_formatter("{x:g}")
    for color, (name, points) in zip(COLORS, over_size.items(), strict=False):
        axes[1].plot(list(points), [100 * share for share in points.values()], color=color, marker="o", label=name)
    axes[1].axvline(side, color="0.5", linestyle=":", label="largest side of the training")
    axes[1].set(xlabel="cells of a row", xticks=sorted({side for points in over_size.values() for side in points}))
    for axis in axes:
        axis.set(ylabel="whole mazes right (%)", ylim=(-3, 103))
        axis.legend(frameon=False, fontsize="small")
    return save(figure, path)


def plot_values(maze: Tensor, values: Mapping[int, Tensor], way: Tensor, path: Path) -> Path:
    """Draw a maze (height, width), as its codes 0 wall, 1 free, 2 start, 3 goal, while value iteration solves it.

    Args:
        values: (height, width), of the cells, by evaluations; the last ones are those that the way is found by.
        way: (height, width) bool, the cells of the way.
    """
    last = list(values.values())[-1]
    figure, axes = panels(len(values) + 1, "The values of a test maze's cells, and the way that they show")
    for axis, (count, found) in zip(axes, values.items(), strict=False):
        image = _draw(axis, maze, found, last)
        axis.set_title(f"values after {count} evaluations", fontsize="medium")
    figure.colorbar(image, ax=axes[-2], shrink=0.8)
    _draw(axes[-1], maze, torch.zeros_like(last), last, way)
    axes[-1].set_title(f"a way of {int(way.sum()) - 1} steps", fontsize="medium")
    return save(figure, path)


def animate_maze(maze: Tensor, frames: Sequence[tuple[int, Tensor, Tensor]], path: Path) -> Path:
    """A GIF of a maze (height, width) being solved: the values of its cells, and where one comes by them.

    Args:
        frames: of each its number of evaluations, the values, and the cells (bool) that one visits by them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    axis = figure.subplots()

    def draw(frame: int) -> None:
        count, values, way = frames[frame]
        axis.clear()
        _draw(axis, maze, values, frames[-1][1], way)
        axis.set_title(f"{count} evaluations", fontsize="medium")

    draw(0)
    return save_animation(figure, draw, len(frames), path, fps=6)


def _draw(axis: "Axes", maze: Tensor, values: Tensor, last: Tensor, way: Tensor | None = None) -> "AxesImage":
    """A maze with the values of its cells, on the logarithmic scale of the last ones; white: none has come as yet."""
    from matplotlib.colors import LogNorm

    free = maze > 0
    axis.imshow(torch.where(free.unsqueeze(-1), 1.0, _WALL).numpy(), interpolation="nearest")
    seen = last[free & (last > 0)]
    lowest, highest = (seen.min().item(), seen.max().item()) if len(seen) else (0.5, 1.0)
    image = axis.imshow(
        torch.where(free & (values >= lowest), values, torch.nan).numpy(),
        cmap="viridis",
        norm=LogNorm(lowest, max(highest, 1.001 * lowest)),
        interpolation="nearest",
    )
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    size = 150 / max(maze.shape) ** 0.9
    if way is not None:
        rows, columns = way.nonzero(as_tuple=True)
        axis.scatter(columns.numpy(), rows.numpy(), s=size**2 / 4, color=COLORS[1], linewidths=0)
    text: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold", "fontsize": size}
    for sign, code in (("S", 2), ("G", 3)):
        row, column = (maze == code).nonzero()[0].tolist()
        marked = axis.text(column, row, sign, color="black", **text)
        marked.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    return image
