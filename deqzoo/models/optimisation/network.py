"""Networks that fill in Sudoku puzzles: by a quadratic program with learned constraints, or by convolutions.

Both take puzzles (B, side, side) int64, 0 for an empty cell and digits from 1, and give scores (B, side, side, side):
those of a cell's digits lie on the last axis.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.implicit import InteriorPoint
from deqzoo.models.common.puzzles import SUDOKU, checked_cells
from deqzoo.nn import ProgramLayer


def one_hot(puzzles: Tensor, side: int) -> Tensor:
    """Digits (..., side, side) as unit vectors (..., side, side, side), zeros for an empty cell, float32.

    >>> import torch
    >>> one_hot(torch.tensor([[0, 2]]), 2)
    tensor([[[0., 0.],
             [0., 1.]]])
    """
    return F.one_hot(puzzles, side + 1)[..., 1:].float()


class SudokuProgram(nn.Module):
    """Solves puzzles by a quadratic program whose constraints are learned from solved puzzles; it is told no rule.

        z*(p) = argmin_z  strength / 2 |z|^2 - p'z    subject to    A z = A exp(u),  z >= 0

    p has a 1 for each digit that is given, z a score for each digit of each cell. With Sudoku's rules as constraints
    (sums of 1 in each row, column, box and cell: 40 independent equalities for 4 x 4 cells) the solution grid is the
    corner that p points to. The network starts with random A, and scores that are the same for all digits of a cell.

    Args:
        side: cells of a row.
        constraints, strength, solver: see `deqzoo.nn.ProgramLayer`.

    Source: Amos, Kolter, "OptNet: Differentiable Optimization as a Layer in Neural Networks", 2017, section 4.4.

    >>> import torch
    >>> SudokuProgram(4)(torch.tensor([[[1, 0, 0, 0], [0, 0, 4, 0], [0, 2, 0, 0], [0, 0, 0, 1]]])).shape
    torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self, side: int, *, constraints: int = 40, strength: float = 0.1, solver: InteriorPoint | None = None
    ) -> None:
        super().__init__()
        self.side = side
        self.program = ProgramLayer(side**3, constraints, strength=strength, level=1 / side, solver=solver)

    def forward(self, puzzles: Tensor) -> Tensor:
        """Scores (B, side, side, side), each at least 0."""
        given = one_hot(checked_cells(puzzles, self.side, SUDOKU, side=self.side, look=not self.training), self.side)
        return self.program(given.flatten(1)).view_as(given)


class SudokuConvNet(nn.Module):
    """Fills in puzzles by ``depth`` 3x3 convolutions, with ReLU between them and a softmax over the digits.

    Args:
        side: cells of a row.
        width: channels.
        depth: convolutions, at least 2.

    >>> import torch
    >>> SudokuConvNet(4)(torch.zeros(1, 4, 4, dtype=torch.long)).sum(-1).detach().round(decimals=5)[0, 0]
    tensor([1., 1., 1., 1.])
    """

    def __init__(self, side: int, *, width: int = 32, depth: int = 5) -> None:
        super().__init__()
        if width < 1 or depth < 2:
            name, least, value = ("width", 1, width) if width < 1 else ("depth", 2, depth)
            raise ValueError(f"{name} must be at least {least}, got {value}")
        self.side = side
        layers: list[nn.Module] = []
        for i in range(depth - 1):
            layers += [nn.Conv2d(width if i else side, width, 3, padding=1), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.Conv2d(width, side, 3, padding=1))

    def forward(self, puzzles: Tensor) -> Tensor:
        """Probabilities (B, side, side, side)."""
        given = one_hot(checked_cells(puzzles, self.side, SUDOKU, side=self.side, look=not self.training), self.side)
        given = given.to(next(self.parameters()).dtype)
        return self.convolutions(given.movedim(-1, 1)).movedim(1, -1).softmax(-1)
