"""Mazes as people write them, and what a network answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqzoo.data.maze_generator import distances
from deqzoo.models.puzzle.maze_cell import FREE, GOAL, START, WALL

SIGNS = {"#": WALL, ".": FREE, " ": FREE, "S": START, "G": GOAL}
MARK = "*"


@dataclass(frozen=True)
class MazeAnswer:
    """What a network makes of a maze; printed, it is the maze with ``*`` in the cells of the way.

    Attributes:
        maze: (height, width) int64, see `read_maze`.
        cells: (height, width) bool, those that one visits by following the network's moves from the start.
        arrived: whether one comes to the goal so.
        steps: of that way; None if one does not arrive. (Whether another way is shorter, this does not say.)
        values: (height, width), the values of the cells at the equilibrium.
        converged: whether the iteration has met its tolerance.
        residual: |f(V) - V| / |f(V)| of the values.
        evaluations: of the cell.
    """

    maze: Tensor
    cells: Tensor
    arrived: bool
    steps: int | None
    values: Tensor
    converged: bool
    residual: float
    evaluations: int

    def __str__(self) -> str:
        """The maze, with its answer, in lines."""
        signs = "#.SG"
        rows = zip(self.maze.tolist(), self.cells.tolist(), strict=True)
        return "\n".join(
            "".join(MARK if on and cell == FREE else signs[cell] for cell, on in zip(*row, strict=True)) for row in rows
        )


def read_maze(maze: str | Tensor | Sequence[Any]) -> Tensor:
    r"""A maze as a tensor (height, width) int64: 0 a wall, 1 where one can walk, 2 the start, 3 the goal.

    Args:
        maze: lines of ``#`` (wall), ``.`` or a blank, ``S`` and ``G``; or a tensor, array or nested list of these
            integers. Lines that are shorter than others end in walls. It need not have walls around it.

    Raises:
        ValueError: it is malformed, has no start or goal or several, or the goal cannot be reached.

    >>> read_maze("S.#\n#.G").tolist()
    [[2, 1, 0], [0, 1, 3]]
    >>> read_maze("S#G")
    Traceback (most recent call last):
        ...
    ValueError: the goal cannot be reached from the start: walls lie between them
    """
    if isinstance(maze, list | tuple) and maze and all(isinstance(line, str) for line in maze):
        maze = "\n".join(maze)
    cells = _read_text(maze) if isinstance(maze, str) else torch.as_tensor(maze)
    if cells.ndim != 2 or 0 in cells.shape:
        raise ValueError(f"a maze is (height, width), with a cell at least; got {tuple(cells.shape)}")
    if cells.is_floating_point() or cells.is_complex() or cells.dtype == torch.bool:
        raise ValueError(f"the cells of a maze are integers, 0 wall, 1 free, 2 start, 3 goal; got {cells.dtype}")
    cells = cells.long()
    if cells.min() < WALL or cells.max() > GOAL:
        raise ValueError(
            f"the cells of a maze are 0 wall, 1 free, 2 start, 3 goal; got {int(cells.min())} to {int(cells.max())}"
        )
    for what, sign, code in (("start", "S", START), ("goal", "G", GOAL)):
        if (count := int((cells == code).sum())) != 1:
            raise ValueError(f"a maze has one {what} ({sign}, or {code} in an array); this one has {count}")
    start = (cells == START).nonzero().numpy()
    if distances((cells != WALL).numpy()[None], start)[0][(cells == GOAL).numpy()] < 0:
        raise ValueError("the goal cannot be reached from the start: walls lie between them")
    return cells


def _read_text(text: str) -> Tensor:
    lines = [line.rstrip("\r") for line in text.strip("\n").split("\n")]
    for row, line in enumerate(lines, 1):
        for column, sign in enumerate(line, 1):
            if sign not in SIGNS:
                raise ValueError(
                    f"line {row}, character {column} of the maze is {sign!r}; valid are # for a wall, . or a blank "
                    "where one can walk, S for the start and G for the goal"
                )
    width = max(map(len, lines))
    return torch.tensor([[SIGNS[sign] for sign in line.ljust(width, "#")] for line in lines])
