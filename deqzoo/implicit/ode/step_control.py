"""Step-size control: steps that the error allows, the same for all systems or of each system's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from ..solution import Status
from .plans import EPS, LAST, ROUNDING, Fault, Plan, Step, jumps_inside, replaced
from .solvers import Adaptive, is_explicit

_ALIKE = 4  # so many last steps, or fewer, are of one length: no tiny one is left over, and fewer are rejected
_STRETCH = 0.05  # fraction by which these may be longer than the error allows, rather than one more
_LEAST_ERROR = 1e-4  # below this the error says nothing of the next step
_SHRINK_FIRST, _SHRINK, _GROW = 0.1, 0.2, 10.0  # bounds of the change from step to step
_GROW_BLIND = 2.0  # of implicit methods, where the error says nothing: lest a bump after a rest be jumped over
_LEAST_ORDER = 0.5  # that two attempts may show
_LEFT_BEHIND = 0.1  # share of the others' steps, or less, that those need who are left behind without budget
_DOUBTFUL = 0.1  # largest error that is accepted from an estimate that does not fall as its order says
_NO_ROWS = torch.empty(0, dtype=torch.long)


class Controlled(Plan):
    """Steps of an adaptive method over the whole span, by a PI controller; the same for all systems.

    Args:
        solver: the method.
        times: output times.
        length: of the first step, in units of t; None: as the solver says.
        systems: how many separate systems share the steps; None: all of y is one.
    """

    needs_error = True

    def __init__(
        self, solver: Adaptive, times: Sequence[float], length: float | None = None, systems: int | None = None
    ) -> None:
        self._solver, self._order = solver, solver.tableau.error_order + 1
        self._blind = _GROW if is_explicit(solver) else _GROW_BLIND
        self._points, self._span = [*times, *solver.jump_times], abs(times[-1] - times[0])
        inside = [len(times) + j for j in jumps_inside(solver.jump_times, times[0], times[-1])]
        self._segments = list(itertools.pairwise([0, *inside, len(times) - 1])) if len(times) > 1 else []
        self._active = bool(self._segments)
        length = solver.given_first_step if length is None else length
        self.needs_length = self._active and length is None
        self._at, self.length = 0.0, _capped(self._span if length is None else length, solver)
        self._last_error = 1.0  # of the last accepted step
        self._last_length: float | None = None
        self._rejected_at: tuple[float, float] | None = None  # size and error of the last attempt, if it was rejected
        self._status, self._accepted, self._rejected = Status.CONVERGED, 0, 0
        self.together = systems is not None
        self._of_each = torch.full((systems or 0,), int(Status.CONVERGED))  # status of the systems that left
        self._lost: tuple[Tensor, int] | None = None
        self._untroubled = self.length  # of the first of the attempts that were rejected
        self._budget = solver.max_steps

    def begin(self, lengths: list[float]) -> None:
        """As `Plan.begin`; the shortest counts."""
        if any(map(math.isnan, lengths)):
            self._active, self._status = False, Status.DIVERGED
        else:
            self.length = _capped(min(lengths, default=self._span), self._solver)

    def whole(self) -> Step:
        """As `Plan.whole`."""
        return Step(0, self._segments[-1][1], 0.0, 1.0)

    def next(self) -> Step | None:
        """As `Plan.next`."""
        if not self._active:
            return None
        if self._exhausted:
            self._status = Status.MAX_STEPS
            return None
        (a, b), left = self._segments[0], 1.0 - self._at
        size = self.length / self._unit
        stretch = _STRETCH if self._rejected_at is None else ROUNDING
        count = max(1, math.ceil(left / size * (1 - stretch)))
        if self._solver.max_step is not None:
            count = max(count, math.ceil(left * self._unit / self._solver.max_step - ROUNDING))
        return Step(a, b, self._at, left / count if count <= _ALIKE else size, lost=self._lost)

    @property
    def _exhausted(self) -> bool:
        return self._accepted + self._rejected >= self._budget

    @property
    def _unit(self) -> float:
        """The length of the segment."""
        a, b = self._segments[0]
        return abs(self._points[b] - self._points[a])

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """As `Plan.judge`; adapts the step. The largest error counts (there are several under `vmap`)."""
        e = max(error, default=0.0) if all(map(math.isfinite, error)) else math.inf
        start, size = step.shared()
        taken = size * self._unit
        order = self._shown_order(taken, e)
        most = 1.0 if order > 1 else _DOUBTFUL
        if e <= most:
            self._accepted += 1
            e = max(e, _LEAST_ERROR)
            factor = self._solver.safety * self._factor(taken, e)
            most = _GROW if e > _LEAST_ERROR else self._blind
            length = taken * min(max(factor, _SHRINK), most if self._rejected_at is None else 1.0)
            # The end of a segment may have cut the step, to one whose error says nothing.
            self.length = _capped(max(length, self.length) if e == _LEAST_ERROR else length, self._solver)
            self._last_error, self._last_length, self._rejected_at = e, taken, None
            self._at = start + size
            if step.last:
                self._at = 0.0
                del self._segments[0]
                self._active = bool(self._segments)
            elif self.length < min(taken, _least(self._now(step), self._span)):
                self._active, self._status = False, Status.STALLED
            return None
        factor = 0.0 if e == math.inf else self._solver.safety * (most / e) ** (1 / order)
        self._untroubled = self.length if self._rejected_at is None else self._untroubled
        self.length = taken * max(factor, _SHRINK if self._accepted else _SHRINK_FIRST)
        self._rejected += 1
        self._rejected_at = taken, e
        if self.length < _least(self._now(step), self._span):
            self._active, self._status = False, Status.DIVERGED if e == math.inf else Status.STALLED
        return _NO_ROWS

    def _factor(self, length: float, error: float) -> float:
        """By which the step may change after one that was accepted, see `Adaptive`; `safety` is left out."""
        if is_explicit(self._solver):
            return error ** (-0.85 / self._order) * self._last_error ** (0.2 / self._order)
        factor = error ** (-1 / self._order)
        if self._last_length is None:
            return factor
        return factor * min(1.0, length / self._last_length * (self._last_error / error) ** (1 / self._order))

    def _now(self, step: Step) -> float:
        (a, b), (start, _) = step.segment(), step.shared()
        return self._points[a] + start * (self._points[b] - self._points[a])

    def _shown_order(self, length: float, error: float) -> float:
        """The order that the errors of this attempt and of a rejected one before it show, at most the method's."""
        if self._rejected_at is None or not math.isfinite(self._rejected_at[1]) or not 0 < error < math.inf:
            return self._order
        length_before, error_before = self._rejected_at
        order = math.log(error_before / error) / math.log(length_before / length)
        return min(max(order, _LEAST_ORDER), self._order)

    def leave(self, fault: Fault | None) -> Tensor | None:
        """As `Plan.leave`: at once where f is not finite before a step, else when the step cannot shrink any more.

        Without budget those are left whose error keeps the step below a tenth of what the others need; these go on with
        as many attempts again.
        """
        stuck, exhausted = self._status in (Status.STALLED, Status.DIVERGED), self._active and self._exhausted
        troubled = stuck or exhausted or (self._rejected_at is not None and self._rejected_at[1] == math.inf)
        if not (self.together and troubled) or fault is None:
            return None
        with temporarily_clear_interpreter_stack():
            found, going = fault.read(), self._of_each == Status.CONVERGED
            if found is None:
                return None
            error, hopeless = found
            if (stuck or exhausted) and not (going & hopeless).any():
                worst = error[going].nan_to_num(math.inf).max()
                least = 1.0 if stuck and worst > 1 else worst * _LEFT_BEHIND**self._order
                hopeless = ~(error <= least) if worst < math.inf else ~error.isfinite()
            bad = going & hopeless
            if not bad.any() or (bad == going).all():
                return None
            failure = Status.MAX_STEPS if exhausted else Status.STALLED
            self._of_each[bad] = torch.where(error[bad].isfinite(), int(failure), int(Status.DIVERGED))
            lost = (self._of_each != Status.CONVERGED).nonzero().squeeze(1)
            self._lost = lost, int((going & ~bad).nonzero()[0])
        self._status, self._active = Status.CONVERGED, True
        if exhausted:
            self._budget += self._solver.max_steps
        else:
            self.length = self._untroubled
        self._rejected_at = None
        return lost

    def replaced(self, y: Tensor) -> Tensor:
        """As `Plan.replaced`."""
        return replaced(y, self._lost)

    def stop(self, systems: Tensor) -> None:
        """As `Plan.stop`; there is one for all."""
        self._active = False

    @property
    def error(self) -> Any:
        """As `Plan.error`."""
        return self._last_error

    def report(self) -> tuple[Any, Any, Any]:
        """As `Plan.report`."""
        status: Any = int(self._status)
        if self._lost is not None:
            status = torch.where(self._of_each == Status.CONVERGED, status, self._of_each)
        return status, self._accepted, self._rejected


class ControlledEach(Plan):
    """As `Controlled`, with steps of its own for each system.

    Args:
        solver: the method.
        times: output times.
        systems: their number.
        compact: leave out the systems that are done; else their steps have length 0.
    """

    needs_error = True

    def __init__(self, solver: Adaptive, times: Sequence[float], systems: int, compact: bool) -> None:
        self._solver, self._order, self._compact = solver, solver.tableau.error_order + 1, compact
        self._blind = _GROW if is_explicit(solver) else _GROW_BLIND
        with temporarily_clear_interpreter_stack():
            points = torch.tensor([*times, *solver.jump_times], dtype=torch.float64)
            inside = [len(times) + j for j in jumps_inside(solver.jump_times, times[0], times[-1])]
            self._points, self._knots = points, torch.tensor([0, *inside, len(times) - 1])
            self._span = abs(times[-1] - times[0])
            self._segment = torch.zeros(systems, dtype=torch.long)
            self._at = torch.zeros(systems, dtype=torch.float64)
            given = solver.given_first_step
            self._length = _capped(torch.full_like(self._at, self._span if given is None else given), solver)
            self._last_error = torch.ones_like(self._at)
            self._last_length = torch.full_like(self._at, torch.nan)  # of the last accepted step; NaN: none
            self._active = torch.full((systems,), len(times) > 1)
            self.needs_length = len(times) > 1 and given is None
            # Length and error of the last attempt of each, if it was rejected; else NaN.
            self._rejected_length = torch.full_like(self._at, torch.nan)
            self._rejected_error = torch.full_like(self._at, torch.nan)
            self._status = torch.full((systems,), int(Status.CONVERGED))
            self._accepted, self._rejected = torch.zeros_like(self._status), torch.zeros_like(self._status)
        self._lost: tuple[Tensor, int] | None = None

    def begin(self, lengths: list[float]) -> None:
        """As `Plan.begin`."""
        with temporarily_clear_interpreter_stack():
            found = torch.tensor(lengths, dtype=torch.float64)
            self._fail(found.isnan(), Status.DIVERGED)
            self._length = _capped(found, self._solver)

    def whole(self) -> Step:
        """As `Plan.whole`."""
        with temporarily_clear_interpreter_stack():
            return Step(0, int(self._knots[-1]), torch.zeros_like(self._at), torch.ones_like(self._at))

    def next(self) -> Step | None:
        """As `Plan.next`."""
        with temporarily_clear_interpreter_stack():
            self._fail(self._active & (self._accepted + self._rejected >= self._solver.max_steps), Status.MAX_STEPS)
            if not self._active.any():
                return None
            a, b, unit = self._where()
            left = 1.0 - self._at
            size = self._length / unit
            stretch = torch.where(self._rejected_length.isnan(), _STRETCH, ROUNDING)
            count = (left / size * (1 - stretch)).ceil().clamp(min=1)
            if self._solver.max_step is not None:
                count = torch.maximum(count, (left * unit / self._solver.max_step - ROUNDING).ceil())
            size = torch.where(count <= _ALIKE, left / count, size)
            segment: tuple[Any, Any] = (a, b) if len(self._knots) > 2 else (int(self._knots[0]), int(self._knots[1]))
            step = Step(*segment, self._at.clone(), torch.where(self._active, size, 0.0), lost=self._lost)
            return step.only(self._active.nonzero().squeeze(1)) if self._compact else step

    def _where(self) -> tuple[Tensor, Tensor, Tensor]:
        """The points of the segment that each system is in, and its length."""
        a, b = self._knots[self._segment], self._knots[self._segment + 1]
        return a, b, (self._points[b] - self._points[a]).abs()

    def _fail(self, which: Tensor, status: Status | Tensor) -> None:
        """End some systems, with a status."""
        self._status = torch.where(which, torch.as_tensor(status), self._status)
        self._active &= ~which

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """As `Plan.judge`; adapts the steps."""
        _, size = step.each()
        with temporarily_clear_interpreter_stack():
            rows = torch.arange(len(self._at)) if step.rows is None else step.rows
            a, b, unit = (x[rows] for x in self._where())
            taken = size * unit
            errors = torch.tensor(error, dtype=torch.float64)
            active, finite = self._active[rows], torch.isfinite(errors)
            order = self._shown_order(rows, taken, errors)
            accept = torch.where(order > 1, 1.0, _DOUBTFUL)
            good, bad = active & (errors <= accept), active & ~(errors <= accept)
            e = torch.where(finite, errors, torch.inf).clamp(min=_LEAST_ERROR)
            grown = self._factor(rows, taken, e)
            allowed = self._solver.safety * torch.where(good, grown, (accept / e) ** (1 / order))
            least = torch.where(bad & (self._accepted[rows] == 0), _SHRINK_FIRST, _SHRINK)
            most = torch.where(e > _LEAST_ERROR, _GROW, self._blind)
            most = torch.where(self._rejected_length[rows].isnan(), most, 1.0)
            length = taken * torch.minimum(torch.maximum(allowed, least), most)
            cut = good & (e == _LEAST_ERROR)
            length = _capped(torch.where(cut, torch.maximum(length, self._length[rows]), length), self._solver)
            now = self._points[a] + self._at[rows] * (self._points[b] - self._points[a])
            stuck = active & (length < torch.where(bad, torch.inf, taken)) & (length < _least(now, self._span))

            self._last_error[rows] = torch.where(good, e, self._last_error[rows])
            self._last_length[rows] = torch.where(good, taken, self._last_length[rows])
            self._length[rows] = torch.where(active, length, self._length[rows])
            self._rejected_length[rows] = torch.where(bad, taken, torch.nan)
            self._rejected_error[rows] = torch.where(bad, errors, torch.nan)
            self._accepted[rows] += good
            self._rejected[rows] += bad
            self._advance(rows, good, size)
            failure = torch.where(finite, int(Status.STALLED), int(Status.DIVERGED))
            stuck &= self._active[rows]  # not those that have just come to the end
            self._status[rows] = torch.where(stuck, failure, self._status[rows])
            self._active[rows] &= ~stuck
            return None if bool(good.all()) else good.nonzero().squeeze(1)

    def _factor(self, rows: Tensor, length: Tensor, error: Tensor) -> Tensor:
        """As `Controlled._factor`."""
        last = self._last_error[rows]
        if is_explicit(self._solver):
            return error ** (-0.85 / self._order) * last ** (0.2 / self._order)
        trend = length / self._last_length[rows] * (last / error) ** (1 / self._order)
        return error ** (-1 / self._order) * trend.nan_to_num(1.0).clamp(max=1.0)

    def _advance(self, rows: Tensor, good: Tensor, size: Tensor) -> None:
        """Move the systems whose step is good; who comes to the end of the last segment is done, and stays there."""
        at = self._at[rows] + torch.where(good, size, 0.0)
        ended = good & (at > 1 - LAST)
        done = ended & (self._segment[rows] == len(self._knots) - 2)
        self._at[rows] = torch.where(ended, torch.where(done, 1.0, 0.0), at)
        self._segment[rows] += ended & ~done
        self._active[rows] &= ~done

    def _shown_order(self, rows: Tensor, length: Tensor, error: Tensor) -> Tensor:
        """As `Controlled._shown_order`."""
        length_before, error_before = self._rejected_length[rows], self._rejected_error[rows]
        order = (error_before / error).log() / (length_before / length).log()
        known = torch.isfinite(error_before) & torch.isfinite(error) & (error > 0)
        return torch.where(known, order.clamp(_LEAST_ORDER, self._order), float(self._order))

    def leave(self, fault: Fault | None) -> Tensor | None:
        """As `Plan.leave`: those with a value that is not finite, while others go on.

        Where f is called with those alone that are not done, these matter at the start only.
        """
        with temporarily_clear_interpreter_stack():
            bad = self._status == Status.DIVERGED
            before = 0 if self._lost is None else len(self._lost[0])
            begun = bool((self._accepted + self._rejected).any())
            if (self._compact and begun) or not self._active.any() or int(bad.sum()) == before:
                return None
            self._lost = bad.nonzero().squeeze(1), int(self._active.nonzero()[0])
            return self._lost[0]

    def replaced(self, y: Tensor) -> Tensor:
        """As `Plan.replaced`."""
        return replaced(y, self._lost)

    def stop(self, systems: Tensor) -> None:
        """As `Plan.stop`."""
        with temporarily_clear_interpreter_stack():
            self._active[systems] = False

    @property
    def error(self) -> Any:
        """As `Plan.error`."""
        return self._last_error

    def report(self) -> tuple[Any, Any, Any]:
        """As `Plan.report`."""
        return self._status, self._accepted, self._rejected


def _capped(length: Any, solver: Adaptive) -> Any:
    """A step's length, a number or a tensor, at most the solver's largest."""
    if solver.max_step is None:
        return length
    return length.clamp(max=solver.max_step) if isinstance(length, Tensor) else min(length, solver.max_step)


def _least(now: Any, span: Any) -> Any:
    """The shortest step at a time: a few units of its last place."""
    return 10 * EPS * (abs(now) + EPS * span)
