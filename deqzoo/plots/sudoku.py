"""What a program has learned of Sudoku: its constraints beside the rules, and a puzzle with the scores of its cells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save


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
    figure.colorbar(image, ax=axes, shrink=0.8)
    return save(figure, path)


def plot_puzzle(puzzle: Tensor, scores: Tensor, solution: Tensor, path: Path) -> Path:
    """Draw a puzzle (n, n), 0 for an empty cell, and what a network makes of it by its scores (n, n, n).

    Digits that differ from the solution have another colour.
    """
    side = len(puzzle)
    figure, axes = panels(2, "A test puzzle")
    digits = scores.argmax(-1) + 1
    for axis, title in zip(axes, ("given", "scores of the digits, the largest written"), strict=True):
        axis.set(xlim=(0, side), ylim=(side, 0), aspect="equal", xticks=[], yticks=[])
        axis.set_title(title, fontsize="medium")
        for line in range(side + 1):
            width = 2 if line % round(side**0.5) == 0 else 0.7
            axis.axhline(line, color="0.2", linewidth=width)
            axis.axvline(line, color="0.2", linewidth=width)
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
    return save(figure, path)
