"""Mazes, and how an equilibrium finds their shortest paths."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save, save_animation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WALL, _PATH, _WAVE = (torch.tensor(rgb) for rgb in ((0.25, 0.25, 0.28), (0.0, 0.45, 0.7), (0.9, 0.6, 0.0)))


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


def plot_wave(maze: Tensor, probabilities: Tensor, settled: Tensor, path: Path) -> Path:
    """Draw a maze (height, width), as its codes 0 wall, 1 free, 2 start, 3 goal, and what an equilibrium makes of it.

    Args:
        probabilities: that a cell lies on a shortest path.
        settled: evaluations after which the state of a cell has come near to its last one.
    """
    figure, axes = panels(2, "The shortest paths of a test maze")
    _draw(axes[0], maze, probabilities, torch.zeros_like(probabilities))
    axes[0].set_title("on a shortest path, with this probability", fontsize="medium")
    _draw(axes[1], maze, torch.zeros_like(probabilities), torch.zeros_like(probabilities))
    image = axes[1].imshow(
        torch.where(maze > 0, settled.float(), torch.nan).numpy(), cmap="viridis", interpolation="nearest"
    )
    axes[1].set_title("evaluations until a cell has settled", fontsize="medium")
    figure.colorbar(image, ax=axes[1], shrink=0.8)
    return save(figure, path)


def animate_maze(maze: Tensor, frames: Sequence[tuple[int, Tensor, Tensor]], path: Path) -> Path:
    """A GIF of a maze (height, width) being solved: what changes is orange, what is taken for a shortest path blue.

    Args:
        frames: of each its number of steps, the probabilities of the cells, and how much their states change, 0 to 1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.9), layout="constrained")
    axis = figure.subplots()

    def draw(frame: int) -> None:
        steps, probabilities, change = frames[frame]
        axis.clear()
        _draw(axis, maze, probabilities, change)
        axis.set_title(f"{steps} evaluations", fontsize="medium")

    draw(0)
    return save_animation(figure, draw, len(frames), path, fps=6)


def _draw(axis: "Axes", maze: Tensor, probabilities: Tensor, change: Tensor) -> None:
    image = torch.ones(*maze.shape, 3)
    image = torch.lerp(image, _WAVE.expand_as(image), change.float().unsqueeze(-1))
    image = torch.lerp(image, _PATH.expand_as(image), probabilities.float().unsqueeze(-1))
    image = torch.where((maze == 0).unsqueeze(-1), _WALL, image)
    axis.imshow(image.numpy(), interpolation="nearest")
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    where: dict[str, Any] = {"ha": "center", "va": "center", "fontweight": "bold", "fontsize": 150 / len(maze) ** 0.9}
    for sign, code in (("S", 2), ("G", 3)):
        row, column = (maze == code).nonzero()[0].tolist()
        axis.text(column, row, sign, color=COLORS[1], **where)
