"""Sudoku puzzles of 4 x 4 cells: each row, each column and each of the four 2 x 2 boxes has the digits 1 to 4."""

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from deqzoo.data.config import DataConfig
from deqzoo.data.info import SudokuInfo
from deqzoo.data.loader import generator
from deqzoo.data.module import TensorData
from deqzoo.data.puzzle_config import SudokuDataConfig

SIDE, BOX, CELLS = 4, 2, 16
_BITS = 1 << torch.arange(CELLS)  # of the cells in a mask; a mask is the sum of those that are given


@cache
def sudoku_grids() -> Tensor:
    """All 288 solution grids, (288, 16) int64, cells row after row.

    >>> sudoku_grids().shape, sudoku_grids()[0].view(4, 4).tolist()
    (torch.Size([288, 16]), [[1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1]])
    """
    return torch.tensor(list(_completions(())))


def _completions(grid: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The solution grids that begin with the cells of ``grid``."""
    cell = len(grid)
    if cell == CELLS:
        yield grid
        return
    taken = {digit for other, digit in enumerate(grid) if any(_units(other)[i] == _units(cell)[i] for i in range(3))}
    for digit in sorted(set(range(1, SIDE + 1)) - taken):
        yield from _completions((*grid, digit))


def _units(cell: int) -> tuple[int, int, int]:
    """Row, column and box of a cell."""
    row, column = divmod(cell, SIDE)
    return row, column, row // BOX * BOX + column // BOX


@cache
def _differences() -> Tensor:
    """(288, 287): for each grid and each other one, the mask of the cells in which they differ.

    A puzzle has one solution if the given cells meet each mask of its grid.
    """
    grids = sudoku_grids()
    masks = ((grids[:, None] != grids) * _BITS).sum(2)
    return masks[masks > 0].view(len(grids), -1)


def draw_sudokus(grids: Tensor, count: int, min_givens: int, max_givens: int, random: Generator) -> Tensor:
    """Different puzzles, each with one solution: (count, 2, 16) int64, puzzles (0 for an empty cell) and solutions.

    Of a random grid cells are removed in a random order, each of them unless the solution would be no longer the only
    one, until a number of cells is left that is drawn uniformly from ``min_givens`` to ``max_givens``, or more where
    none of them can go.

    Args:
        grids: (n,) int64, rows of `sudoku_grids` to choose from.

    Raises:
        ValueError: if there are not as many puzzles.

    >>> (puzzle, solution), *_ = draw_sudokus(torch.tensor([0]), 3, 5, 5, Generator().manual_seed(0))
    >>> solution.equal(sudoku_grids()[0]), bool(((puzzle == 0) | (puzzle == solution)).all()), (puzzle > 0).sum().item()
    (True, True, 5)
    """
    found: dict[tuple[int, int], None] = {}  # in the order in which they were drawn
    while len(found) < count:
        before = len(found)
        chosen = grids[torch.randint(len(grids), (count,), generator=random)]
        least = torch.randint(min_givens, max_givens + 1, (count,), generator=random)
        masks = _remove_cells(_differences()[chosen], least, random)
        found |= dict.fromkeys(zip(chosen.tolist(), masks.tolist(), strict=True))
        if len(found) == before:
            raise ValueError(
                f"there are hardly more than {before} such puzzles of {len(grids)} grids: ask for fewer, or for more "
                "grids or other numbers of givens"
            )
    chosen, masks = torch.tensor(list(found)[:count]).unbind(1)
    solutions = sudoku_grids()[chosen]
    return torch.stack([solutions * ((masks[:, None] & _BITS) > 0), solutions], dim=1)


def _remove_cells(differences: Tensor, least: Tensor, random: Generator) -> Tensor:
    """Masks (n,) of at least ``least`` (n,) cells that meet all ``differences`` (n, k), by removal in random order."""
    masks, left = torch.full_like(least, int(_BITS.sum())), torch.full_like(least, CELLS)
    for cells in torch.rand(len(least), CELLS, generator=random).argsort(1).T:
        fewer = masks & ~_BITS[cells]
        removed = (left > least) & ((fewer[:, None] & differences) > 0).all(1)
        masks, left = torch.where(removed, fewer, masks), left - removed.long()
    return masks


class SudokuData(TensorData):
    """Puzzles of 4 x 4 cells drawn from fixed seeds; the parts have no solution grid in common.

    Batches are (puzzles (B, 4, 4), solutions (B, 4, 4)), int64: digits 1 to 4, and 0 for a cell that is not given.

    Args:
        name: the set: ``sudoku4``.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.puzzle_config.SudokuDataConfig`.

    >>> data = SudokuData("sudoku4", train_size=100, val_size=10, test_size=10, batch_size=20)
    >>> data.setup()
    >>> puzzles, solutions = next(iter(data.train_dataloader()))
    >>> puzzles.shape, bool((puzzles == solutions)[puzzles > 0].all())
    (torch.Size([20, 4, 4]), True)
    """

    Config: ClassVar[type[DataConfig]] = SudokuDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name != "sudoku4":
            raise ValueError(f"there is no set of puzzles {name!r}; valid is sudoku4")

    @property
    def info(self) -> SudokuInfo:
        """The side."""
        return SudokuInfo(SIDE)

    def setup(self, stage: str | None = None) -> None:
        """Share out the grids, and draw the puzzles of each part."""
        if self.tensors is not None:
            return
        options = self.options
        order = torch.randperm(len(sudoku_grids()), generator=generator(0, 0))
        sizes = {"train": options.train_size, "val": options.val_size, "test": options.test_size}
        shares = order.split(
            [len(order) - options.val_grids - options.test_grids, options.val_grids, options.test_grids]
        )
        drawn = [
            draw_sudokus(grids, size, options.min_givens, options.max_givens, generator(0, 1 + part))
            for part, (grids, size) in enumerate(zip(shares, sizes.values(), strict=True))
        ]
        puzzles, solutions = torch.cat(drawn).unflatten(2, (SIDE, SIDE)).unbind(1)
        self.tensors = puzzles.contiguous(), solutions.contiguous()
        self.parts = dict(zip(sizes, torch.arange(len(puzzles)).split(list(sizes.values())), strict=True))


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = SudokuDataConfig()
    cells = [
        "Sudoku puzzles of 4 x 4 cells with one solution each; no solution grid in two parts",
        f"4 x 4 cells, {default.min_givens} to {default.max_givens} of them given",
        "none",
        f"{default.train_size:,} / {default.val_size:,} / {default.test_size:,}",
        "none",
        "[`draw_sudokus`](../deqzoo/data/sudoku.py)",
        "drawn; Amos, Kolter, [arXiv:1703.00443](https://arxiv.org/abs/1703.00443), section 4.4",
        "none needed",
    ]
    return {"sudoku4": cells}
