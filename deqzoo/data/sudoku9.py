"""Sudoku puzzles of 9 x 9 cells: drawn ones to train on, and drawn and collected ones to test on."""

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from torch import Tensor

from deqzoo.atomic import whole_file
from deqzoo.data.config import DataConfig
from deqzoo.data.files import data_root, fetch
from deqzoo.data.info import SudokuInfo
from deqzoo.data.loader import TensorLoader, generator
from deqzoo.data.module import TensorData
from deqzoo.data.puzzle_config import Sudoku9DataConfig
from deqzoo.data.sudoku_collections import COLLECTIONS, read_puzzles
from deqzoo.data.sudoku_generator import draw_grids, remove_digits
from deqzoo.data.sudoku_solver import Puzzles, solve_sudokus
from deqzoo.data.sudoku_symmetry import grid_invariants
from deqzoo.implicit.sending import send

_VERSION = 1  # of what is drawn: another one makes other puzzles of the same options
_COLLECTED = {"17": "17_clue.txt", "hardest": "forum_hardest_1905.txt"}
Part = tuple[Puzzles, Puzzles]


class Sudoku9Data(TensorData):
    """Puzzles of 9 x 9 cells with one solution each; the sets have no solution grid in common, symmetries included.

    Batches are (puzzles (B, 9, 9), solutions (B, 9, 9)), int64: digits 1 to 9, and 0 for a cell that is not given.

    The training and validation puzzles are drawn: no digit of theirs can go (22 to 28 are left). To a training puzzle
    some digits are added each time, floor((1 + a) u^2) of them with u uniform in [0, 1), a = ``added_givens``.
    ``test`` are drawn ones of 31 to 42 digits, 36.2 in the mean; further sets to test on are ``others``. All is drawn
    from a fixed seed, once: it is kept under the data root, in ``sudoku9/``.

    Args:
        name: the set: ``sudoku9``.
        seed: of the order of the batches and of the digits that are added.
        options: the fields of `deqzoo.data.puzzle_config.Sudoku9DataConfig`.

    Attributes:
        others: after `setup`, further sets to test on, (puzzles, solutions) each: "25-30", drawn, of 25 to 30 digits;
            of the collections "17", of 17 digits, and "hardest", a forum's.
    """

    Config: ClassVar[type[DataConfig]] = Sudoku9DataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name != "sudoku9":
            raise ValueError(f"there is no set of puzzles {name!r}; valid is sudoku9")
        self.others: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def info(self) -> SudokuInfo:
        """The side."""
        return SudokuInfo(9)

    @cached_property
    def file(self) -> Path:
        """Where the drawn puzzles are kept; its name tells the options that they were drawn with."""
        options = self.options
        drawn = (_VERSION, options.train_size, options.val_size, options.test_size, options.collected, self.collections)
        name = hashlib.sha256(repr(drawn).encode()).hexdigest()[:12]
        return data_root(options.root) / "sudoku9" / f"{name}.npz"

    @property
    def collections(self) -> bool:
        """Whether the collections are tested on."""
        return bool(self.options.collections)

    def prepare_data(self) -> None:
        """Fetch the collections and draw the puzzles, if they are not there (Lightning calls it in one process)."""
        if self.file.is_file():
            return
        collected = {}
        if self.collections:
            folder = fetch(COLLECTIONS, self.options.root, download=self.options.download)
            collected = {part: read_puzzles(folder, name) for part, name in _COLLECTED.items()}
        sizes = {name: getattr(self.options, f"{name}_size") for name in ("train", "val", "test")}
        parts = draw_parts(sizes, collected, self.options.collected)
        arrays: dict[str, Any] = {f"{name}_{i}": array for name, part in parts.items() for i, array in enumerate(part)}
        with whole_file(self.file) as path:
            np.savez_compressed(path, **arrays)

    def setup(self, stage: str | None = None) -> None:
        """Read the puzzles."""
        if self.tensors is not None:
            return
        self.prepare_data()
        with np.load(self.file, allow_pickle=False) as arrays:
            read = {name: torch.from_numpy(arrays[name]).long() for name in arrays.files}
        parts = {name.removesuffix("_0"): (read[name], read[f"{name[:-1]}1"]) for name in read if name.endswith("_0")}
        main = {name: parts.pop(name) for name in ("train", "val", "test")}
        self.others = parts
        self.tensors = tuple(torch.cat(tensors) for tensors in zip(*main.values(), strict=True))
        counts = [len(puzzles) for puzzles, _ in main.values()]
        self.parts = dict(zip(main, torch.arange(sum(counts)).split(counts), strict=True))

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> TensorLoader:
        """As `TensorData.make_loader`; in training with further digits."""
        if not train:
            return super().make_loader(part, batch_size, train, **options)
        assert self.tensors is not None
        added = self.options.added_givens
        return AddingLoader(self.tensors, self.parts[part], batch_size, added=added, shuffle=True, **options)


class AddingLoader(TensorLoader):
    """Batches of puzzles to which digits of their solutions are added, of each batch by (seed, epoch, batch).

    Args:
        added: the most digits; their number is floor((1 + added) u^2), u uniform: more often few.
    """

    def __init__(self, *args: Any, added: int, **options: Any) -> None:
        self.added = added
        super().__init__(*args, **options)

    def _make_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        puzzles, solutions = super()._make_batch(indices)
        random = generator(self.seed, self.epoch, self.batch, self.rank)
        count = ((1 + self.added) * torch.rand(len(puzzles), 1, generator=random) ** 2).long()
        order = torch.rand(puzzles[0].numel(), len(puzzles), generator=random).T
        count, order = send(count, puzzles.device), send(order, puzzles.device)
        rank = (order + (puzzles.flatten(1) > 0)).argsort(1).argsort(1)  # empty cells first
        return torch.where((rank < count).view_as(puzzles), solutions, puzzles), solutions


def draw_parts(sizes: dict[str, int], collected: dict[str, Puzzles], most: int, seed: int = 0) -> dict[str, Part]:
    """Puzzles and solutions of all sets.

    No two sets have solution grids with the same `grid_invariants`, so that none has the same grid as another one, also
    not by a symmetry.

    Args:
        sizes: of the sets "train", "val" and "test"; "25-30" is as large as "test".
        collected: further puzzles, by their names.
        most: of each of these, drawn at random.
    """
    random = default_rng(seed)
    parts: dict[str, Part] = {}
    for name, puzzles in collected.items():
        chosen = puzzles[random.permutation(len(puzzles))[:most]]
        solutions, counts = solve_sudokus(chosen)
        if (counts != 1).any():
            raise ValueError(f"the collection {name} has puzzles with no solution, or with several")
        parts[name] = chosen, solutions
    givens: dict[str, Callable[[int], NDArray[np.int64]]] = {
        "test": lambda n: 31 + random.binomial(11, 5.2 / 11, n),  # 31 to 42, mean 36.2: as in SATNet's puzzles
        "25-30": lambda n: random.integers(25, 31, n),
        "val": lambda n: np.zeros(n, np.int64),  # as few as possible
        "train": lambda n: np.zeros(n, np.int64),
    }
    for name, draw in givens.items():
        size = sizes.get(name, sizes["test"])
        grids = _new_grids(size, [solutions for _, solutions in parts.values()], random)
        parts[name] = _with_digits(grids, draw(size), random), grids
    return parts


def _with_digits(grids: Puzzles, least: NDArray[np.int64], random: Generator) -> Puzzles:
    """Puzzles of the grids with these numbers of digits, 0: as few as possible; other cells are tried if need be."""
    puzzles = remove_digits(grids, least, random)
    while len(again := np.flatnonzero((least > 0) & ((puzzles > 0).sum((1, 2)) > least))):
        puzzles[again] = remove_digits(grids[again], least[again], random)
    return puzzles


def _new_grids(count: int, others: list[Puzzles], random: Generator) -> Puzzles:
    """Solution grids none of which is the same as one of the others."""
    taken = {word for grids in others for word in grid_invariants(grids)}
    grids = draw_grids(count, random)
    while old := [i for i, word in enumerate(grid_invariants(grids)) if word in taken]:
        grids[old] = draw_grids(len(old), random)
    return grids


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = Sudoku9DataConfig()
    cells = [
        "Sudoku puzzles of 9 x 9 cells with one solution each; no solution grid in two parts, symmetries included",
        "9 x 9 cells, 17 to 42 of them given",
        "none",
        f"{default.train_size:,} / {default.val_size:,} / {default.test_size:,}, and {default.test_size:,} of 25 to 30 "
        f"digits; of each collection {default.collected:,}",
        f"{COLLECTIONS.megabytes} MB",
        "[`Sudoku9Data`](../deqzoo/data/sudoku9.py)",
        f"drawn; two collections: {COLLECTIONS.source}",
        COLLECTIONS.licence,
    ]
    return {"sudoku9": cells}
