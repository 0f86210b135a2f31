"""Mazes with loops and their optimal moves: small ones to train on, larger ones to test on."""

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from torch import Tensor

from deqzoo.data.config import DataConfig
from deqzoo.data.info import MazeInfo
from deqzoo.data.loader import TensorLoader
from deqzoo.data.maze_generator import Cells, draw_ends, draw_mazes, maze_names, optimal_moves
from deqzoo.data.module import TensorData
from deqzoo.data.puzzle_config import MazeDataConfig

_TRIES = 100  # to draw mazes that no other part has
Mazes = tuple[Tensor, Tensor]  # and their optimal moves


class MazeData(TensorData):
    """Mazes drawn from fixed seeds; no two parts have the same maze, turned or mirrored ones included.

    Batches are (mazes (B, side, side) int64, moves (B, 4, side, side) bool): 0 wall, 1 free, 2 start, 3 goal, and
    whether a move up, down, left or right brings one nearer to the goal, from each cell. Start and goal are any two
    rooms. Several moves may be as good: every maze has an answer then, while mazes with one shortest path alone are the
    fewer the larger they are (a half at 27 x 27 cells), and shorter and less entangled ones.

    In training mazes of several sizes are in a batch: walls are put below and to the right of the smaller ones.

    Args:
        name: the set: ``mazes``.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.puzzle_config.MazeDataConfig`.

    Attributes:
        others: after `setup`, further sets to test on, (mazes, moves) each, by their sides.

    >>> data = MazeData("mazes", train_size=30, val_size=6, test_size=4, other_sides=[13], batch_size=10)
    >>> data.setup()
    >>> mazes, moves = next(iter(data.train_dataloader()))
    >>> mazes.shape, moves.shape, data.others["13"][0].shape
    (torch.Size([10, 13, 13]), torch.Size([10, 4, 13, 13]), torch.Size([100, 13, 13]))
    """

    Config: ClassVar[type[DataConfig]] = MazeDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name != "mazes":
            raise ValueError(f"there is no set of mazes {name!r}; valid is mazes")
        self.others: dict[str, Mazes] = {}
        self.tested: Mazes | None = None

    @property
    def info(self) -> MazeInfo:
        """Nothing: mazes of any size will do."""
        return MazeInfo()

    def setup(self, stage: str | None = None) -> None:
        """Draw the sets to test on, then that to validate on, then that to train on, each without those before."""
        if self.tensors is not None:
            return
        options = self.options
        taken: dict[int, NDArray[np.uint64]] = {}  # names of mazes that were drawn, by their side

        def draw(part: int, count: int, side: int) -> Mazes:
            random = default_rng((part, side))  # of other sides, or of how many there are, a part does not depend
            free = _new_mazes(count, side, options.loops, taken.get(side), random)
            taken[side] = np.union1d(taken.get(side, np.empty(0, np.uint64)), maze_names(free))
            return _with_moves(free, random)

        self.tested = draw(0, options.test_size, options.test_side)
        self.others = {str(side): draw(1, options.other_size, side) for side in options.other_sides}
        counts = {"val": options.val_size, "train": options.train_size}
        drawn: dict[str, list[Mazes]] = {}
        for number, (part, count) in enumerate(counts.items(), 2):
            shares = [len(share) for share in np.array_split(np.arange(count), len(options.sides))]
            drawn[part] = [draw(number, *of) for of in zip(shares, options.sides, strict=True)]
        most = max(options.sides)
        padded = [[_padded(tensor, most) for tensor in mazes] for part in ("train", "val") for mazes in drawn[part]]
        self.tensors = tuple(torch.cat(tensors) for tensors in zip(*padded, strict=True))
        of_train, of_val = torch.arange(counts["train"] + counts["val"]).split([counts["train"], counts["val"]])
        self.parts = {"train": of_train, "val": of_val, "test": torch.arange(options.test_size)}

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> TensorLoader:
        """As `TensorData.make_loader`; those to test on have another size."""
        if part != "test":
            return super().make_loader(part, batch_size, train, **options)
        assert self.tested is not None
        return TensorLoader(self.tested, self.parts[part], batch_size, **options)


def _new_mazes(count: int, side: int, loops: float, taken: NDArray[np.uint64] | None, random: Generator) -> Cells:
    """Mazes whose names are not among those that are ``taken``."""
    free = draw_mazes(count, side, loops, random)
    for _ in range(_TRIES):
        if taken is None or not len(old := np.flatnonzero(np.isin(maze_names(free), taken))):
            return free
        free[old] = draw_mazes(len(old), side, loops, random)
    raise ValueError(
        f"there are hardly other mazes of {side} x {side} cells than those of other parts: ask for larger, or fewer"
    )


def _with_moves(free: Cells, random: Generator) -> Mazes:
    """Start and goal for each maze, and the optimal moves."""
    start, goal = draw_ends(free, random)
    mazes, each = free.astype(np.int64), np.arange(len(free))
    for code, place in ((2, start), (3, goal)):
        mazes[each, place[:, 0], place[:, 1]] = code
    return torch.from_numpy(mazes), torch.from_numpy(optimal_moves(free, goal))


def _padded(tensor: Tensor, side: int) -> Tensor:
    """With zeros below and to the right."""
    return torch.nn.functional.pad(tensor, (0, side - tensor.shape[-1], 0, side - tensor.shape[-2]))


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = MazeDataConfig()
    sides = ", ".join(map(str, default.other_sides))
    cells = [
        "mazes with loops and their optimal moves; no maze in two parts, turned or mirrored ones included",
        f"{min(default.sides)} x {min(default.sides)} to {max(default.sides)} x {max(default.sides)} cells; to test on "
        f"{default.test_side} x {default.test_side}",
        "none",
        f"{default.train_size:,} / {default.val_size:,} / {default.test_size:,}, and {default.other_size:,} each of "
        f"the sides {sides}",
        "none",
        "[`MazeData`](../deqzoo/data/mazes.py)",
        "drawn",
        "none needed",
    ]
    return {"mazes": cells}
