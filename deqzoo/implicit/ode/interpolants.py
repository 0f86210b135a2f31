"""Dense output that outlives its steps: y(begin + theta h) = before + h sum_j w_j(theta) k_j."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..sending import send
from .controllers import Step
from .stage_values import Length, Stages, coefficients
from .steps import Stepper
from .tableaus import Tableau


@dataclasses.dataclass
class Taken:
    """A step that was accepted.

    Attributes:
        number: in the order of steps.
        step: what was done, of the systems that took it.
        stepper: which took it.
        t, h: begin and length.
        before: the state before it.
        stages: its stages.
        accepted: the rows of `before` and `stages` that took it; None: all.
    """

    number: int
    step: Step
    stepper: Stepper
    t: Tensor
    h: Length
    before: Tensor
    stages: Stages
    accepted: Tensor | None

    def complete(self) -> None:
        """Evaluate the stages that dense output alone needs, where they are not known yet."""
        if len(self.stepper.tableau.a) > self.stepper.tableau.stages:
            self.stepper.extend(self.stages, self.t, self.h, self.before)

    def dense(self) -> tuple[Tensor, Tensor]:
        """State before, (rows, unknowns), and stages, (rows, stages, unknowns), of the rows that took it."""
        k = self.stages.rows(len(self.stepper.tableau.dense)).movedim(0, 1)
        return (self.before, k) if self.accepted is None else (self.before[self.accepted], k[self.accepted])


@dataclasses.dataclass
class Kept:
    """Steps whose dense output was kept, with a row for each system that took one of them.

    Attributes:
        where: numbers of the steps, and which of their rows (None: all).
        counts: how many rows that are, of each.
        systems: of each row.
        a, b, start, size: of each row, as in `Step`.
        before: state before the step, (rows, unknowns).
        stages: (rows, stages, unknowns).

    All but the last two are on the host.
    """

    where: list[tuple[int, Tensor | None]]
    counts: list[int]
    systems: Tensor
    a: Tensor
    b: Tensor
    start: Tensor
    size: Tensor
    before: Tensor
    stages: Tensor

    def without_values(self) -> Kept:
        """The same, without what a graph would have to hold."""
        return dataclasses.replace(self, before=self.before[:0], stages=self.stages[:0])

    def times(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Begin and length of each row, (rows,), as functions of the points: output times, then jumps."""
        a, b = t[send(self.a, t.device)], t[send(self.b, t.device)]
        start, size = (send(x.to(t.dtype), t.device) for x in (self.start, self.size))
        return a + start * (b - a), size * (b - a)

    def split(self, of_before: Tensor, of_stages: Tensor) -> dict[int, tuple[Tensor | None, Tensor, Tensor]]:
        """Gradients by number of step: its rows, dL/dbefore (rows, unknowns), dL/dk (stages, rows, unknowns)."""
        parts = zip(self.where, of_before.split(self.counts), of_stages.split(self.counts), strict=True)
        return {number: (rows, y, k.movedim(0, 1)) for (number, rows), y, k in parts}


class Keep:
    """Keeps the dense output of every step, while they are taken."""

    def __init__(self) -> None:
        self._where: list[tuple[int, Tensor | None]] = []
        self._steps: list[Step] = []
        self._values: list[tuple[Tensor, Tensor]] = []
        self.rows = 0  # that were kept

    def see(self, taken: Taken) -> Tensor:
        """A step was taken. Returns the systems that need no more, on the host."""
        self.keep(taken, None)
        return torch.empty(0, dtype=torch.long)

    def keep(self, taken: Taken, rows: Tensor | None) -> None:
        """Keep the step, or of the systems that took it the given ones (positions, on the host)."""
        taken.complete()
        before, k = taken.dense()
        if rows is not None:
            chosen = send(rows, before.device)
            before, k = before[chosen], k[chosen]
        self._where.append((taken.number, rows))
        self._steps.append(taken.step if rows is None else taken.step.only(rows))
        self._values.append((before, k))
        self.rows += len(before)

    def finish(self) -> Kept | None:
        """What was kept; None for nothing."""
        if not self._steps:
            return None
        counts = [len(before) for before, _ in self._values]
        each = [_spread(step, count) for step, count in zip(self._steps, counts, strict=True)]
        systems, a, b, start, size = (torch.cat(parts) for parts in zip(*each, strict=True))
        before, stages = (torch.cat(parts) for parts in zip(*self._values, strict=True))
        self._values = []
        return Kept(self._where, counts, systems, a, b, start, size, before, stages)


class Again(Keep):
    """Keeps the same steps as an earlier solve."""

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self._wanted = dict(kept.where)

    def see(self, taken: Taken) -> Tensor:
        """As `Keep.see`."""
        if taken.number in self._wanted:
            self.keep(taken, self._wanted[taken.number])
        return torch.empty(0, dtype=torch.long)


def _spread(step: Step, count: int) -> tuple[Tensor, ...]:
    """Systems, a, b, start and size of each row of a step."""
    systems = torch.arange(count) if step.rows is None else step.rows
    a, b = (x if isinstance(x, Tensor) else torch.full((count,), x) for x in (step.a, step.b))
    start, size = (
        x if isinstance(x, Tensor) else torch.full((count,), x, dtype=torch.float64) for x in (step.start, step.size)
    )
    return systems, a, b, start, size


class Interpolants:
    """Dense output of steps, a row each, as functions of time.

    Args:
        tableau: of the method.
        before: state before the step, (rows, unknowns).
        stages: (rows, stages, unknowns).
        begin, length: of the step, (rows,).
    """

    def __init__(self, tableau: Tableau, before: Tensor, stages: Tensor, begin: Tensor, length: Tensor) -> None:
        self.before, self.stages, self.begin, self.length = before, stages, begin, length
        self._dense = coefficients(tableau, before).dense

    def __call__(self, index: Tensor, t: Tensor) -> Tensor:
        """y at times t (points,), by the rows `index`: (points, unknowns)."""
        theta, h = self._fraction(index, t)
        change = torch.einsum("ps,psd->pd", weights(self._dense, theta), self.stages[index])
        return self.before[index] + h.unsqueeze(1) * change

    def slope(self, index: Tensor, t: Tensor) -> Tensor:
        """dy/dt there: the derivative of the interpolant, which meets f to one order less than y."""
        theta, _ = self._fraction(index, t)
        return torch.einsum("ps,psd->pd", slopes(self._dense, theta), self.stages[index])

    def _fraction(self, index: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        begin, length = self.begin[index], self.length[index]
        return ((t - begin) / length).to(self.before.dtype), length.to(self.before.dtype)


def weights(dense: Tensor, theta: Tensor) -> Tensor:
    """w_j(theta) = sum_m dense[j][m] theta^(m+1), (points, stages); by Horner's rule, as powers of 0 have no tape."""
    return _polynomial(dense, theta) * theta.unsqueeze(1)


def slopes(dense: Tensor, theta: Tensor) -> Tensor:
    """dw_j/dtheta, (points, stages)."""
    powers = torch.arange(1, dense.shape[1] + 1, dtype=dense.dtype, device=dense.device)
    return _polynomial(dense * powers, theta)


def _polynomial(coefficients: Tensor, theta: Tensor) -> Tensor:
    """sum_m c[j][m] theta^m, (points, j)."""
    *lower, value = coefficients.unbind(dim=1)
    value = value.expand(len(theta), -1)
    for c in reversed(lower):
        value = value * theta.unsqueeze(1) + c
    return value
