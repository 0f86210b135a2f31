"""What may be said about sets of puzzles; imports no torch."""

from dataclasses import dataclass, field

from deqzoo.data.config import DataConfig, at_least_one


@dataclass
class MazeDataConfig(DataConfig):
    """Mazes with loops, and their optimal moves, drawn when they are set up: the same ones always.

    Attributes:
        kind: the kind of data, always ``mazes`` here.
        name: the set, always ``mazes``.
        batch_size, eval_batch_size: mazes per step.
        sides: cells of a row of the mazes to train and validate on, odd; of each as many.
        test_side: of those to test on.
        other_sides: of further ones to test on. If it is one of `sides`, they are others than those of the training.
        train_size, val_size, test_size: mazes of each part.
        other_size: of each further set.
        loops: probability with which a wall between two rooms is opened, see `deqzoo.data.maze_generator.draw_mazes`.
    """

    kind: str = "mazes"
    name: str = "mazes"
    batch_size: int = 32
    eval_batch_size: int = 50
    sides: list[int] = field(default_factory=lambda: [9, 11, 13])
    test_side: int = 27
    other_sides: list[int] = field(default_factory=lambda: [13, 19, 39, 51])
    train_size: int = 12_800
    val_size: int = 300
    test_size: int = 1000
    other_size: int = 100
    loops: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "train_size", "val_size", "test_size", "other_size")
        if not self.sides:
            raise ValueError("data.sides must name a side at least, such as [9,11,13]")
        for side in (*self.sides, self.test_side, *self.other_sides):
            if side < 5 or side % 2 == 0:
                raise ValueError(
                    f"the side of a maze (data.sides, test_side, other_sides) is odd, and at least 5; got {side}"
                )
        if not 0 <= self.loops <= 1:
            raise ValueError(f"data.loops is a probability; got {self.loops}")


@dataclass
class SudokuDataConfig(DataConfig):
    """Sudoku puzzles of 4 x 4 cells with one solution, drawn when they are set up: the same ones always.

    The parts have no solution grid in common, of the 288 that there are.

    Attributes:
        kind: the kind of data, always ``sudoku`` here.
        name: the set, always ``sudoku4``.
        batch_size, eval_batch_size: puzzles per step.
        train_size, val_size, test_size: puzzles of each part, all of them different.
        val_grids, test_grids: solution grids of these parts; training has the others.
        min_givens, max_givens: least and largest number of cells that are to be left; see `deqzoo.data.sudoku`.
    """

    kind: str = "sudoku"
    name: str = "sudoku4"
    batch_size: int = 150
    eval_batch_size: int = 500
    train_size: int = 9000
    val_size: int = 500
    test_size: int = 1000
    val_grids: int = 29
    test_grids: int = 29
    min_givens: int = 4
    max_givens: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "train_size", "val_size", "test_size", "val_grids", "test_grids")
        if self.val_grids + self.test_grids >= 288:
            raise ValueError(
                f"data.val_grids={self.val_grids} and test_grids={self.test_grids} leave none of 288 grids to train on"
            )
        if not 4 <= self.min_givens <= self.max_givens < 16:
            raise ValueError(
                "data.min_givens and data.max_givens must lie in this order between 4, the fewest with which a puzzle "
                f"has one solution, and 15; got {self.min_givens} and {self.max_givens}"
            )


@dataclass
class Sudoku9DataConfig(DataConfig):
    """Sudoku puzzles of 9 x 9 cells with one solution, drawn once and kept: the same ones always.

    Attributes:
        kind: the kind of data, always ``sudoku9`` here.
        name: the set, always ``sudoku9``.
        batch_size, eval_batch_size: puzzles per step.
        root: folder of the data; None: the environment's ``DEQZOO_DATA``, else ``~/.cache/deqzoo``.
        train_size, val_size, test_size: puzzles of each part; see `deqzoo.data.sudoku9`.
        added_givens: most digits that a training puzzle is given beside its own.
        collections: test on collected puzzles as well, which are downloaded.
        collected: of each collection, puzzles to test on.
        download: fetch what is missing; False: an error says what is missing.
    """

    kind: str = "sudoku9"
    name: str = "sudoku9"
    batch_size: int = 16
    eval_batch_size: int = 100
    root: str | None = None
    train_size: int = 40_000
    val_size: int = 500
    test_size: int = 1000
    added_givens: int = 18
    collections: bool = True
    collected: int = 2000
    download: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "train_size", "val_size", "test_size", "collected")
        if not 0 <= self.added_givens <= 81:
            raise ValueError(f"data.added_givens must lie between 0 and 81, got {self.added_givens}")
