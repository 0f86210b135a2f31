"""Solvers of Sudoku: what a program has learned of the rules, puzzles with scores, and how they are solved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save, save_animation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_row_spaces(projectors: Mapping[str, Tensor], path: Path) -> Path:
    """Draw projectors (64, 64) onto the row spaces of constraints, a panel each.

    They are equal where the constraints imply one another, whichever rows they are written as.
    """
    figure, axes = panels(len(projectors), "Projector onto the rows of the constraints")
    for axis, (name, matrix) in zip(axes, projectors.items(), strict=True):
        image = axis.imshow(matrix.numpy(), cmap="RdBu_r", vmin=-0.7, vmax=0.7, interpolation="nearest")
        axis.grid(False)
        axis.set_title(name, fontsize="medium")
        axis.set(xlabel="digits of the cells, 4 for each")
        axis.set_xticks(range(0, len(matrix), 16))
        axis.set_yticks(range(0, len(matrix), 16))
    figure.colorbar(image, ax=axes, shrink=0.8, label="entry of the projector")
    return save(figure, path)


def plot_puzzle(puzzle: Tensor, scores: Tensor, solution: Tensor, path: Path) -> Path:
    """Draw a puzzle (n, n), 0 for an empty cell, and what a network makes of it by its scores (n, n, n).

    Digits that differ from the solution have another colour.
    """
    side = len(puzzle)
    figure, axes = panels(2, "A test puzzle")
    digits = scores.argmax(-1) + 1
    for axis, title in zip(axes, ("given", "scores of the digits, the largest written"), strict=True):
        _grid(axis, side)
        axis.set_title(title, fontsize="medium")
    for row in range(side):
        for column in range(side):
            where: dict[str, Any] = {"x": column + 0.5, "y": row + 0.45, "ha": "center", "va": "center", "fontsize": 16}
            given = int(puzzle[row, column])
            if given:
                axes[0].text(**where, s=str(given))
            digit, right = int(digits[row, column]), int(solution[row, column])
            color = "0.2" if given else COLORS[0]
            axes[1].text(**where, s=str(digit), color=color if digit == right else COLORS[1])
            places = [column + (place + 1) / (side + 1) for place in range(side)]
            heights = (-0.25 * scores[row, column].clamp(0, 1)).tolist()
            axes[1].bar(places, heights, width=0.15, bottom=row + 0.97, color=color)
    meanings = {"given": "0.2", "right": COLORS[0], "wrong": COLORS[1]}
    _legend(figure, [*meanings.items(), ("bars: the scores of digits 1, 2, ...", "0.6")])
    return save(figure, path)


def plot_solved(
    over_nfe: Mapping[str, Mapping[int, float]], over_starts: Mapping[str, Mapping[int, float]], path: Path
) -> Path:
    """Draw the shares of puzzles solved, of each set, over evaluations of the cell and over starts."""
    figure, axes = panels(2, "Whole puzzles solved: more computation solves more")
    for axis, curves in zip(axes, (over_nfe, over_starts), strict=True):
        for color, (name, points) in zip(COLORS, curves.items(), strict=False):
            shares = [100 * share for share in points.values()]
            axis.plot(list(points), shares, label=name, color=color, marker="o", markersize=3)
        axis.set(ylabel="whole puzzles solved (%)", ylim=(-3, 103), xscale="log")
        axis.set_xticks(sorted({count for points in curves.values() for count in points}), minor=False)
        axis.minorticks_off()
        axis.xaxis.set_major_formatter("{x:g}")
    axes[0].set(xlabel="evaluations of the cell (NFE), one start")
    axes[1].set(xlabel="starts, while none has converged")
    axes[1].legend(frameon=False, fontsize="small")
    return save(figure, path)


def animate_puzzle(puzzle: Tensor, frames: Sequence[tuple[int, Tensor, float]], path: Path) -> Path:
    """A GIF of a puzzle (n, n) being solved; digits are the fainter the less probable they are.

    Args:
        frames: of each its number of steps, the probabilities of the digits (n, n, n), and the residual.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 3.8), layout="constrained")
    axis = figure.subplots()
    side = len(puzzle)

    def draw(frame: int) -> None:
        steps, probabilities, residual = frames[frame]
        axis.clear()
        _grid(axis, side)
        axis.set_title(f"{steps} evaluations, residual {residual:.0e}", fontsize="medium")
        likely, digits = probabilities.max(-1)
        for row in range(side):
            for column in range(side):
                given = int(puzzle[row, column])
                axis.text(
                    column + 0.5,
                    row + 0.52,
                    str(given or int(digits[row, column]) + 1),
                    ha="center",
                    va="center",
                    fontsize=108 / side,
                    color="0.1" if given else COLORS[0],
                    alpha=1.0 if given else float(likely[row, column]) ** 2,
                )

    _legend(figure, [("given", "0.1"), ("found, fainter where less probable", COLORS[0])])
    return save_animation(figure, draw, len(frames), path, fps=6)


def _legend(figure: "Figure", meanings: Sequence[tuple[str, str]]) -> None:
    """What the colours mean, below the panels."""
    from matplotlib.patches import Patch

    handles = [Patch(color=color, label=name) for name, color in meanings]
    options: dict[str, Any] = {"frameon": False, "fontsize": "small", "handlelength": 0.8}
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), **options)


def _grid(axis: "Axes", side: int) -> None:
    """The lines of an empty puzzle; cell (0, 0) is the upper left one."""
    axis.set(xlim=(0, side), ylim=(side, 0), aspect="equal", xticks=[], yticks=[])
    for line in range(side + 1):
        width = 2 if line % round(side**0.5) == 0 else 0.7
        axis.axhline(line, color="0.2", linewidth=width)
        axis.axvline(line, color="0.2", linewidth=width)
