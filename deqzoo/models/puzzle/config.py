"""What the recipes of equilibria that solve puzzles may say; imports no torch."""

from dataclasses import dataclass

from deqzoo.models.common.config import FixedPointConfig, TrainingConfig


@dataclass
class SudokuEquilibriumConfig(FixedPointConfig, TrainingConfig):
    """An equilibrium that solves Sudoku (`deqzoo.models.SudokuEquilibrium`) and how it is trained."""

    kind: str = "sudoku_equilibrium"
    solver: str = "picard"
    # The network.
    width: int = 24  # features of a state
    hidden: int = 48  # features of the hidden layer
    digit_symmetry: bool = True  # a state for each digit of each cell, with weights that all digits share
    # Training: steps of damped iteration on the tape, after some without.
    depth: int = 16  # steps that are backpropagated through
    loss_every: int = 4  # of them, so that each stage of the way is asked for the solution
    damping: float = 0.7  # of these steps; that of the solver is among its options
    lead: int = 48  # most steps before them, drawn uniformly for each batch: the losses are those near the equilibrium
    lead_from: float = 0.6  # share of the training after which they begin
    settle: float = 0.01  # factor of the mean logarithm of the last residual, which makes of the end of the way a point
    settle_from: float = 0.75  # share of the training after which it is added to the loss
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
