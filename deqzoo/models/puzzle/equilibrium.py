"""What all networks that solve puzzles by an equilibrium have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.nn import DEQ


class PuzzleEquilibrium(nn.Module):
    """Scores read off an equilibrium z* = cell(z*, puzzle); a subclass says how (`read`), and what is `wrong`.

    Args:
        cell: f(z, x), with methods `inject(puzzles) -> x`, what it is told of puzzles, and `initial_state(x, random)`,
            from where the iteration starts: ``random`` is a generator for the start of a seed, or None in training.
        solver, adjoint: see `deqzoo.nn.DEQ`; each puzzle is a system of its own.
    """

    def __init__(
        self, cell: nn.Module, *, solver: FixedPointSolver | None = None, adjoint: EquationAdjoint | None = None
    ) -> None:
        super().__init__()
        self.deq = DEQ(cell, solver=solver, adjoint=adjoint, compact=True)

    def forward(self, puzzles: Tensor, start: int = 0) -> Tensor:
        """Scores (B, ...) of puzzles (B, height, width).

        Args:
            puzzles: int64.
            start: in eval mode, the seed of the state from which the iteration starts.
        """
        x = self.deq.cell.inject(puzzles)
        random = None if self.training else torch.Generator().manual_seed(start)
        return self.read(self.deq(x, self.deq.cell.initial_state(x, random)))

    def read(self, z: Tensor) -> Tensor:
        """The scores (B, ...) of states."""
        raise TypeError(f"{type(self).__name__} does not define read()")

    def wrong(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """Which cells of the puzzles are wrong by their scores, (B, height, width)."""
        raise TypeError(f"{type(self).__name__} does not define wrong()")

    def iterates(
        self, puzzles: Tensor, steps: int, damping: float, *, lead: int = 0, start: int | None = None
    ) -> Iterator[Tensor]:
        """The states of the damped iteration z <- z + damping (cell(z) - z), one after each of the ``steps``.

        Gradients flow through these; ``lead`` steps before have none. ``start`` as in `forward`; None: as in training.
        """
        cell: Any = self.deq.cell
        x = cell.inject(puzzles)
        z = cell.initial_state(x, None if start is None else torch.Generator().manual_seed(start))
        with torch.no_grad():
            for _ in range(lead):
                z = torch.lerp(z, cell(z, x), damping)
        for _ in range(steps):
            z = torch.lerp(z, cell(z, x), damping)
            yield z
