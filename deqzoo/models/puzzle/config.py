"""What the recipes of networks that solve puzzles may say; imports no torch."""

from dataclasses import dataclass, field

from deqzoo.models.common.config import FixedPointConfig, TrainingConfig


@dataclass
class PuzzleConfig(FixedPointConfig, TrainingConfig):
    """An equilibrium that solves puzzles, and how it is trained (`deqzoo.models.puzzle.module.PuzzleModule`)."""

    solver: str = "picard"
    # Training: steps of damped iteration on the tape, after some without.
    depth: int = 16  # steps that are backpropagated through
    loss_every: int = 4  # of them, so that each stage of the way is asked for the solution
    damping: float = 0.7  # of these steps; that of the solver is among its options
    lead: int = 48  # most steps before them, drawn uniformly for each batch: the losses are those near the equilibrium
    lead_from: float = 0.6  # share of the training after which they begin
    lead_full: float | None = None  # share after which so many may come, fewer before; null: at once
    settle: float = 0.01  # factor of the mean logarithm of the last residual, which makes of the end of the way a point
    settle_from: float = 0.75  # share of the training after which it is added to the loss
    settle_after: int = 0  # steps before those on the tape, with fewer of which none is asked to settle
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 2 or self.lead < 0 or not 1 <= self.loss_every <= self.depth:
            raise ValueError(
                "depth must be at least 2, lead not negative, and loss_every between 1 and depth; got "
                f"{self.depth}, {self.lead} and {self.loss_every}."
            )
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must lie in (0, 1], got {self.damping}.")
        if not (0 <= self.lead_from <= 1 and 0 <= self.settle_from <= 1 and self.settle >= 0):
            raise ValueError(
                "lead_from and settle_from must lie in [0, 1], and settle not be negative; got "
                f"{self.lead_from}, {self.settle_from} and {self.settle}."
            )
        if self.settle_after > self.lead:
            raise ValueError(f"settle_after must be at most lead, got {self.settle_after} and {self.lead}.")
        if self.lead_full is not None and not self.lead_from <= self.lead_full <= 1:
            raise ValueError(f"lead_full must lie in [lead_from, 1], got {self.lead_full}.")


@dataclass
class SudokuEquilibriumConfig(PuzzleConfig):
    """An equilibrium that solves Sudoku (`deqzoo.models.SudokuEquilibrium`) and how it is trained."""

    kind: str = "sudoku_equilibrium"
    # The network.
    width: int = 24  # features of a state
    hidden: int = 48  # features of the hidden layer
    digit_symmetry: bool = True  # a state for each digit of each cell, with weights that all digits share


@dataclass
class MazePlannerConfig(FixedPointConfig, TrainingConfig):
    """Value iteration in mazes (`deqzoo.models.MazePlanner`) and how it is trained."""

    kind: str = "maze_planner"
    solver: str = "picard"
    # The network.
    actions: int = 3  # of the learned decision process, in four directions each
    hidden: int = 16  # channels by which it sees the maze
    discount: float = 0.99  # by which it contracts, so below 1
    # Beside it.
    baselines: list[str] = field(default_factory=list)  # trained entries for the same data, to compare with in the card


@dataclass
class MazeLayersConfig(TrainingConfig):
    """Convolutions that say where to go in a maze (`deqzoo.models.MazeLayers`): a baseline."""

    kind: str = "maze_layers"
    width: int = 8  # channels
    depth: int = 32  # convolutions
