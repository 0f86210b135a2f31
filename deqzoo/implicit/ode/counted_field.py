"""A field as a method calls it: its evaluations are counted, and kept away from the times at which it jumps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .solvers import ODESolver

Field = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (t, y, rows) -> dy/dt on (systems, unknowns); rows: which


class CountedField:
    """A field f, and what the parts of a step share.

    Args:
        solver: the method.
        f: the field.
        taped: keep the stages on the tape.

    Attributes:
        calls: of f; a product with its Jacobian counts as one.
        limits: of the times at which f is evaluated, see `Times.limits`; None: any.
        replays: the steps are those of an earlier solve, in any order: a Jacobian that is kept would be of no use.
    """

    def __init__(self, solver: ODESolver, f: Field, taped: bool) -> None:
        self.solver, self.tableau, self.f, self.taped = solver, solver.tableau, f, taped
        self.calls = 0
        self.limits: tuple[Tensor, Tensor] | None = None
        self.replays = False

    def evaluate(self, t: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """f(t, y) of the systems `rows`, counted."""
        self.calls += 1
        return self.f(self.within(t), y, rows)

    def within(self, t: Tensor) -> Tensor:
        """A time, moved into the limits."""
        return t if self.limits is None else torch.minimum(torch.maximum(t, self.limits[0]), self.limits[1])
