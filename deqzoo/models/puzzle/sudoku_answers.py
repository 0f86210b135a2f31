"""Puzzles as people write them, and what a network answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """What a network makes of a puzzle; printed, it is the digits, row after row.

    Attributes:
        digits: (side, side) int64; those that are given stay.
        valid: whether each row, column and box has each digit once. If the puzzle has one solution, this is it.
        converged: whether the iteration has met its tolerance.
        residual: |f(z) - z| / |f(z)| of the state that was read.
        start: seed of the noise from which it was found.
    """

    digits: Tensor
    valid: bool
    converged: bool
    residual: float
    start: int

    def __str__(self) -> str:
        """The digits in one line."""
        return "".join(str(digit) for digit in self.digits.flatten().tolist())


def answer_of(given: Tensor, scores: Tensor, residual: float, converged: bool, start: int) -> Answer:
    """The digits with the largest scores (side, side, side), and what is given."""
    digits = torch.where(given > 0, given, scores.argmax(-1) + 1).cpu()
    return Answer(digits, bool(keeps_rules(digits[None])), converged, residual, start)


def keeps_rules(grids: Tensor) -> Tensor:
    """Whether each row, column and box of grids (B, side, side) has each digit once, (B,).

    >>> keeps_rules(torch.tensor([[[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]]]))
    tensor([True])
    """
    side = grids.shape[-1]
    wanted = torch.arange(1, side + 1, device=grids.device)
    return torch.stack([(unit.sort(-1).values == wanted).flatten(1).all(1) for unit in units(grids)]).all(0)


def units(grids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, columns and boxes of grids (B, side, side), each (B, side, side)."""
    side, box = grids.shape[-1], math.isqrt(grids.shape[-1])
    return grids, grids.mT, grids.view(-1, box, box, box, box).transpose(2, 3).reshape(-1, side, side)


def read_puzzle(puzzle: str | Tensor | Sequence[Any], side: int = 9) -> Tensor:
    """A puzzle as a tensor (side, side) int64, 0 for an empty cell.

    Raises:
        ValueError: it is malformed, or a digit stands twice in a row, column or box.

    >>> read_puzzle("1..4" + 12 * ".", side=4)[0]
    tensor([1, 0, 0, 4])
    >>> read_puzzle("1..1" + 12 * ".", side=4)
    Traceback (most recent call last):
        ...
    ValueError: the puzzle contradicts itself: the digit 1 stands twice in row 1
    """
    cells = side * side
    if isinstance(puzzle, list | tuple) and puzzle and all(isinstance(line, str) for line in puzzle):
        puzzle = "".join(puzzle)
    if isinstance(puzzle, str):
        text = "".join(puzzle.split()).replace(".", "0")
        valid = "0123456789"[: side + 1]
        if len(text) != cells:
            raise ValueError(f"a puzzle has {cells} characters, one for each cell, row after row; got {len(text)}")
        if wrong := [(place, character) for place, character in enumerate(text, 1) if character not in valid]:
            place, character = wrong[0]
            raise ValueError(
                f"character {place} of the puzzle is {character!r}; valid are the digits 1 to {side}, and . or 0 for "
                "an empty cell"
            )
        puzzle = [int(character) for character in text]
    grid = torch.as_tensor(puzzle)
    if grid.is_floating_point() or grid.is_complex() or grid.dtype == torch.bool:
        raise ValueError(f"the cells of a puzzle are integers, 0 for an empty one; got {grid.dtype}")
    if grid.shape not in ((side, side), (cells,)):
        raise ValueError(f"a puzzle is ({side}, {side}), or flat, ({cells},); got {tuple(grid.shape)}")
    grid = grid.long().reshape(side, side)
    if grid.min() < 0 or grid.max() > side:
        raise ValueError(f"the cells of a puzzle are 1 to {side}, 0 for an empty one; got {grid.min()} to {grid.max()}")
    for name, lines in zip(("row", "column", "box"), units(grid[None].cpu()), strict=True):
        for number, line in enumerate(lines[0], 1):
            twice = torch.bincount(line, minlength=2)[1:] > 1
            if twice.any():
                digit = int(twice.int().argmax()) + 1
                raise ValueError(f"the puzzle contradicts itself: the digit {digit} stands twice in {name} {number}")
    return grid
