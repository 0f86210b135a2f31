"""What the recipes of solvers of Sudoku may say; imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from deqzoo.models.common.config import TrainingConfig


@dataclass
class SudokuProgramConfig(TrainingConfig):
    """A quadratic program that learns Sudoku's rules (`deqzoo.models.SudokuProgram`) and how it is trained."""

    kind: str = "sudoku_program"
    # The network.
    constraints: int = 40  # equalities that are learned
    strength: float = 0.1  # of the quadratic term
    solver: str = "interior_point"
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of `deqzoo.implicit.InteriorPoint`
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class SudokuConvConfig(TrainingConfig):
    """Convolutions that fill in Sudoku puzzles (`deqzoo.models.SudokuConvNet`) and how they are trained."""

    kind: str = "sudoku_conv"
    width: int = 32  # channels
    depth: int = 5  # 3x3 convolutions, the last of which writes the digits
