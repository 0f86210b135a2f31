"""A network that solves Sudoku by an equilibrium."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.models.common.puzzles import SUDOKU, checked_cells
from deqzoo.models.puzzle.equilibrium import PuzzleEquilibrium
from deqzoo.models.puzzle.sudoku_answers import Answer, answer_of, read_puzzle
from deqzoo.models.puzzle.sudoku_cell import SudokuCell


class SudokuEquilibrium(PuzzleEquilibrium):
    """Reads the digits of a puzzle off an equilibrium: z* = cell(z*, puzzle), scores = V z* + c.

    The iteration starts from noise: the same one for each puzzle in eval mode, another one in training. From other
    noise it may end elsewhere, see `solve`.

    Args:
        side: cells of a row: 4 or 9.
        width, hidden, digit_symmetry: see `SudokuCell`.
        solver, adjoint: see `deqzoo.nn.DEQ`; each puzzle is a system of its own.

    >>> network = SudokuEquilibrium(4, width=8, hidden=16).eval()
    >>> network(torch.zeros(2, 4, 4, dtype=torch.long)).shape
    torch.Size([2, 4, 4, 4])
    """

    def __init__(
        self,
        side: int,
        *,
        width: int = 24,
        hidden: int = 48,
        digit_symmetry: bool = True,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        cell = SudokuCell(side, width=width, hidden=hidden, digit_symmetry=digit_symmetry)
        super().__init__(cell, solver=solver, adjoint=adjoint)
        self.side = side
        self.head = nn.Linear(width, 1 if digit_symmetry else side)

    def forward(self, puzzles: Tensor, start: int = 0) -> Tensor:
        """Scores of the digits (B, side, side, side) of puzzles (B, side, side), 0 for an empty cell.

        Args:
            puzzles: of integers.
            start: in eval mode, the seed of the noise from which the iteration starts.
        """
        return super().forward(checked_cells(puzzles, self.side, SUDOKU, side=self.side, look=not self.training), start)

    def read(self, z: Tensor) -> Tensor:
        """The scores (B, side, side, side) of states."""
        return self.head(z).flatten(3)

    def wrong(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """The cells whose digit is not that of the solution, (B, side, side)."""
        return scores.argmax(-1) + 1 != solutions

    @torch.no_grad()
    def solve(self, puzzle: str | Tensor, *, restarts: int = 0, choose: str = "residual", seed: int = 0) -> Answer:
        """Solve one puzzle.

        Args:
            puzzle: a string with a character for each cell, row after row, ``.`` or 0 for an empty one; or a tensor,
                array or nested list of integers, (side, side) or flat, 0 for an empty cell.
            restarts: further starts, from other noise, while none has converged. If none does, the answer is that of
                the start with the least residual.
            choose: "residual"; or "rules": start again while the digits break the rules of the game, too. That is
                search, in which the network proposes.
            seed: of the noise of the first start; those after it count on.

        Returns:
            See `Answer`: digits, whether the iteration has converged, whether they keep the rules.

        Raises:
            ValueError: the puzzle is malformed, or a digit stands twice in a row, column or box.

        >>> network = SudokuEquilibrium(4, width=8, hidden=16).eval()
        >>> answer = network.solve("1..............2")
        >>> answer.digits.shape, answer.digits[0, 0].item(), len(str(answer))
        (torch.Size([4, 4]), 1, 16)
        """
        if choose not in ("residual", "rules"):
            raise ValueError(f"choose must be 'residual' or 'rules', got {choose!r}")
        if restarts < 0:
            raise ValueError(f"restarts must not be negative, got {restarts}")
        if self.training:
            raise RuntimeError("the network is in training mode, where starts are random: call .eval() first")
        given = read_puzzle(puzzle, self.side).to(self.head.weight.device)
        answers: list[Answer] = []
        for start in range(seed, seed + restarts + 1):
            scores = self(given.unsqueeze(0), start)[0]
            solution: Any = self.deq.solution
            answers.append(answer_of(given, scores, solution.residual.item(), bool(solution.converged), start))
            if answers[-1].valid if choose == "rules" else answers[-1].converged:
                return answers[-1]
        return min(answers, key=lambda answer: answer.residual)
