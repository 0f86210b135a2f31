"""Step-size control: steps that the error allows, the same for all systems or of each system's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..private_api import below_all_transforms
from ..solution import Status
from .controllers import EPS, LAST, ROUNDING, Fault, Step, StepController, jumps_inside, replace_failed
from .solvers import Adaptive
from .step_size import LEAST_ERROR, StepSizeRule

_EQUAL = 4  # last steps, or fewer, that are of one length: no tiny one is left over, and fewer are rejected
_STRETCH = 0.05  # fraction by which these may be longer than the error allows, rather than one more
_LEFT_BEHIND = 0.1  # share of the others' steps, or less, that those need who are left behind without budget
_NO_ROWS = torch.empty(0, dtype=torch.long)


class SharedController(StepController):
    """Steps of an adaptive method over the whole span, by the rule of `StepSizeRule`; the same for all systems.

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
        self._solver, self._rule = solver, StepSizeRule(solver)
        self._points, self._span = [*times, *solver.jump_times], abs(times[-1] - times[0])
        inside = [len(times) + j for j in jumps_inside(solver.jump_times, times[0], times[-1])]
        self._segments = list(itertools.pairwise([0, *inside, len(times) - 1])) if len(times) > 1 else []
        self._active = bool(self._segments)
        length = solver.given_first_step if length is None else length
        self.needs_first_step = self._active and length is None
        self._at, self.length = 0.0, self._rule.capped(self._span if length is None else length)
        self._last_length, self._last_error = math.nan, 1.0  # of the last accepted step; NaN: none
        self._rejected_length = self._rejected_error = math.nan  # of the last attempt, if it was rejected; else NaN
        self._status, self._accepted, self._rejected = Status.CONVERGED, 0, 0
        self.together = systems is not None
        self._of_each = torch.full((systems or 0,), int(Status.CONVERGED))  # status of the systems that failed alone
        self._failed: tuple[Tensor, int] | None = None
        self._length_before_rejections = self.length  # of the first of the attempts that were rejected
        self._budget = solver.max_steps

    def set_first_step(self, lengths: list[float]) -> None:
        """As `StepController.set_first_step`; the shortest counts."""
        if any(map(math.isnan, lengths)):
            self._active, self._status = False, Status.DIVERGED
        else:
            self.length = self._rule.capped(min(lengths, default=self._span))

    def whole_span(self) -> Step:
        """As `StepController.whole_span`."""
        return Step(0, self._segments[-1][1], 0.0, 1.0)

    def next_step(self) -> Step | None:
        """As `StepController.next_step`."""
        if not self._active:
            return None
        if self._exhausted:
            self._status = Status.MAX_STEPS
            return None
        (a, b), left = self._segments[0], 1.0 - self._at
        size = self.length / self._unit
        stretch = _STRETCH if math.isnan(self._rejected_length) else ROUNDING
        count = max(1, math.ceil(left / size * (1 - stretch)))
        if self._solver.max_step is not None:
            count = max(count, math.ceil(left * self._unit / self._solver.max_step - ROUNDING))
        return Step(a, b, self._at, left / count if count <= _EQUAL else size, failed=self._failed)

    @property
    def _exhausted(self) -> bool:
        return self._accepted + self._rejected >= self._budget

    @property
    def _unit(self) -> float:
        """The length of the segment."""
        a, b = self._segments[0]
        return abs(self._points[b] - self._points[a])

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """As `StepController.judge`; adapts the step. The largest error counts (there are several under `vmap`)."""
        worst = max(error, default=0.0) if all(map(math.isfinite, error)) else math.inf
        taken = step.shared()[1] * self._unit
        order = self._rule.shown_order(taken, worst, self._rejected_length, self._rejected_error)
        if worst <= self._rule.largest_error(order):
            self._accept(step, taken, max(worst, LEAST_ERROR))
            return None
        self._reject(step, taken, worst, order)
        return _NO_ROWS

    def _accept(self, step: Step, taken: float, error: float) -> None:
        rule, now = self._rule, self._now(step)
        self.length = rule.after_accepted(
            taken, error, self._last_length, self._last_error, self._rejected_length, self.length
        )
        self._last_length, self._last_error = taken, error
        self._rejected_length = self._rejected_error = math.nan
        self._accepted += 1
        if step.last:
            self._at = 0.0
            del self._segments[0]
            self._active = bool(self._segments)
        else:
            start, size = step.shared()
            self._at = start + size
            if self.length < min(taken, _least(now, self._span)):
                self._active, self._status = False, Status.STALLED

    def _reject(self, step: Step, taken: float, error: float, order: float) -> None:
        if math.isnan(self._rejected_length):
            self._length_before_rejections = self.length
        self.length = self._rule.after_rejected(taken, error, order, self._accepted > 0)
        self._rejected_length, self._rejected_error = taken, error
        self._rejected += 1
        if self.length < _least(self._now(step), self._span):
            self._active, self._status = False, Status.DIVERGED if error == math.inf else Status.STALLED

    def _now(self, step: Step) -> float:
        (a, b), (start, _) = step.segment(), step.shared()
        return self._points[a] + start * (self._points[b] - self._points[a])

    def drop_failed(self, fault: Fault | None) -> Tensor | None:
        """As `StepController.drop_failed`: at once where f is not finite, else when the step cannot shrink any more.

        Without budget those are left whose error keeps the step below a tenth of what the others need; these go on with
        the whole budget again.
        """
        stuck, exhausted = self._status in (Status.STALLED, Status.DIVERGED), self._active and self._exhausted
        troubled = stuck or exhausted or self._rejected_error == math.inf
        if not (self.together and troubled) or fault is None:
            return None
        with below_all_transforms():
            if not self._mark_failing(fault, stuck, exhausted):
                return None
            going = self._of_each == Status.CONVERGED
            failed = (~going).nonzero().squeeze(1)
            self._failed = failed, int(going.nonzero()[0])
        self._status, self._active = Status.CONVERGED, True
        if exhausted:
            self._budget += self._solver.max_steps
        else:
            self.length = self._length_before_rejections
        self._rejected_length = self._rejected_error = math.nan
        return failed

    def _mark_failing(self, fault: Fault, stuck: bool, exhausted: bool) -> bool:
        """Give a status to the systems that keep the others from going on; whether there are any, and others."""
        found = fault.read()
        if found is None:
            return False
        error, hopeless = found
        going = self._of_each == Status.CONVERGED
        if (stuck or exhausted) and not (going & hopeless).any():
            hopeless = self._near_the_worst(error, error[going].nan_to_num(math.inf).max(), stuck)
        failing = going & hopeless
        if not failing.any() or (failing == going).all():
            return False
        why = Status.MAX_STEPS if exhausted else Status.STALLED
        self._of_each[failing] = torch.where(error[failing].isfinite(), int(why), int(Status.DIVERGED))
        return True

    def _near_the_worst(self, error: Tensor, worst: Tensor, stuck: bool) -> Tensor:
        """The systems with an error near the worst one; where a step is stuck, those above the tolerance."""
        if worst == math.inf:
            return ~error.isfinite()
        least = 1.0 if stuck and worst > 1 else worst * _LEFT_BEHIND**self._rule.order
        return ~(error <= least)

    def replace_failed(self, y: Tensor) -> Tensor:
        """As `StepController.replace_failed`."""
        return replace_failed(y, self._failed)

    def stop(self, systems: Tensor) -> None:
        """As `StepController.stop`; there is one for all."""
        self._active = False

    @property
    def last_error(self) -> Any:
        """As `StepController.last_error`."""
        return self._last_error

    def report(self) -> tuple[Any, Any, Any]:
        """As `StepController.report`."""
        status: Any = int(self._status)
        if self._failed is not None:
            status = torch.where(self._of_each == Status.CONVERGED, status, self._of_each)
        return status, self._accepted, self._rejected


class ControllerPerSystem(StepController):
    """As `SharedController`, with steps of its own for each system.

    Args:
        solver: the method.
        times: output times.
        systems: their number.
        compact: leave out the systems that are done; else their steps have length 0.
    """

    needs_error = True

    def __init__(self, solver: Adaptive, times: Sequence[float], systems: int, compact: bool) -> None:
        self._solver, self._rule, self._compact = solver, StepSizeRule(solver), compact
        with below_all_transforms():
            points = torch.tensor([*times, *solver.jump_times], dtype=torch.float64)
            inside = [len(times) + j for j in jumps_inside(solver.jump_times, times[0], times[-1])]
            self._points, self._knots = points, torch.tensor([0, *inside, len(times) - 1])
            self._span = abs(times[-1] - times[0])
            self._segment = torch.zeros(systems, dtype=torch.long)
            self._at = torch.zeros(systems, dtype=torch.float64)
            given = solver.given_first_step
            self._length = self._rule.capped(torch.full_like(self._at, self._span if given is None else given))
            self._last_error = torch.ones_like(self._at)
            self._last_length = torch.full_like(self._at, torch.nan)  # of the last accepted step; NaN: none
            self._active = torch.full((systems,), len(times) > 1)
            self.needs_first_step = len(times) > 1 and given is None
            # Length and error of the last attempt of each, if it was rejected; else NaN.
            self._rejected_length = torch.full_like(self._at, torch.nan)
            self._rejected_error = torch.full_like(self._at, torch.nan)
            self._status = torch.full((systems,), int(Status.CONVERGED))
            self._accepted, self._rejected = torch.zeros_like(self._status), torch.zeros_like(self._status)
        self._failed: tuple[Tensor, int] | None = None

    def set_first_step(self, lengths: list[float]) -> None:
        """As `StepController.set_first_step`."""
        with below_all_transforms():
            found = torch.tensor(lengths, dtype=torch.float64)
            self._fail(found.isnan(), Status.DIVERGED)
            self._length = self._rule.capped(found)

    def whole_span(self) -> Step:
        """As `StepController.whole_span`."""
        with below_all_transforms():
            return Step(0, int(self._knots[-1]), torch.zeros_like(self._at), torch.ones_like(self._at))

    def next_step(self) -> Step | None:
        """As `StepController.next_step`."""
        with below_all_transforms():
            self._fail(self._active & (self._accepted + self._rejected >= self._solver.max_steps), Status.MAX_STEPS)
            if not self._active.any():
                return None
            a, b, unit = self._segment_of_each()
            left = 1.0 - self._at
            size = self._length / unit
            stretch = torch.where(self._rejected_length.isnan(), _STRETCH, ROUNDING)
            count = (left / size * (1 - stretch)).ceil().clamp(min=1)
            if self._solver.max_step is not None:
                count = torch.maximum(count, (left * unit / self._solver.max_step - ROUNDING).ceil())
            size = torch.where(count <= _EQUAL, left / count, size)
            segment: tuple[Any, Any] = (a, b) if len(self._knots) > 2 else (int(self._knots[0]), int(self._knots[1]))
            step = Step(*segment, self._at.clone(), torch.where(self._active, size, 0.0), failed=self._failed)
            return step.only(self._active.nonzero().squeeze(1)) if self._compact else step

    def _segment_of_each(self) -> tuple[Tensor, Tensor, Tensor]:
        """The points of the segment that each system is in, and its length."""
        a, b = self._knots[self._segment], self._knots[self._segment + 1]
        return a, b, (self._points[b] - self._points[a]).abs()

    def _fail(self, which: Tensor, status: Status | Tensor) -> None:
        """End some systems, with a status."""
        self._status = torch.where(which, torch.as_tensor(status), self._status)
        self._active &= ~which

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """As `StepController.judge`; adapts the steps."""
        size = step.each()[1]
        with below_all_transforms():
            rows = torch.arange(len(self._at)) if step.rows is None else step.rows
            a, b, unit = (x[rows] for x in self._segment_of_each())
            taken, errors, active = size * unit, torch.tensor(error, dtype=torch.float64), self._active[rows]
            finite = errors.isfinite()
            before = self._rejected_length[rows], self._rejected_error[rows]
            order = self._rule.shown_order(taken, errors, *before)
            within = errors <= self._rule.largest_error(order)
            good, bad = active & within, active & ~within

            e = torch.where(finite, errors, torch.inf).clamp(min=LEAST_ERROR)
            last, planned = (self._last_length[rows], self._last_error[rows]), self._length[rows]
            grown = self._rule.after_accepted(taken, e, *last, before[0], planned)
            shrunk = self._rule.after_rejected(taken, e, order, self._accepted[rows] > 0)
            length = torch.where(good, grown, shrunk)
            now = self._points[a] + self._at[rows] * (self._points[b] - self._points[a])
            tiny = (length < _least(now, self._span)) & (bad | (length < taken))

            self._last_error[rows] = torch.where(good, e, last[1])
            self._last_length[rows] = torch.where(good, taken, last[0])
            self._length[rows] = torch.where(active, length, planned)
            self._rejected_length[rows] = torch.where(bad, taken, torch.nan)
            self._rejected_error[rows] = torch.where(bad, errors, torch.nan)
            self._accepted[rows] += good
            self._rejected[rows] += bad
            self._advance(rows, good, size)
            # Not those that have just come to the end.
            self._end(rows, tiny & self._active[rows], finite)
            return None if bool(good.all()) else good.nonzero().squeeze(1)

    def _end(self, rows: Tensor, which: Tensor, finite: Tensor) -> None:
        """End some systems, whose steps have become too short."""
        why = torch.where(finite, int(Status.STALLED), int(Status.DIVERGED))
        self._status[rows] = torch.where(which, why, self._status[rows])
        self._active[rows] &= ~which

    def _advance(self, rows: Tensor, good: Tensor, size: Tensor) -> None:
        """Move the systems whose step is good; who comes to the end of the last segment is done, and stays there."""
        at = self._at[rows] + torch.where(good, size, 0.0)
        ended = good & (at > 1 - LAST)
        done = ended & (self._segment[rows] == len(self._knots) - 2)
        self._at[rows] = torch.where(ended, torch.where(done, 1.0, 0.0), at)
        self._segment[rows] += ended & ~done
        self._active[rows] &= ~done

    def drop_failed(self, fault: Fault | None) -> Tensor | None:
        """As `StepController.drop_failed`: those with a value that is not finite, while others go on.

        Where f is called with those alone that are not done, these matter at the start only.
        """
        with below_all_transforms():
            bad = self._status == Status.DIVERGED
            before = 0 if self._failed is None else len(self._failed[0])
            started = bool((self._accepted + self._rejected).any())
            if (self._compact and started) or not self._active.any() or int(bad.sum()) == before:
                return None
            self._failed = bad.nonzero().squeeze(1), int(self._active.nonzero()[0])
            return self._failed[0]

    def replace_failed(self, y: Tensor) -> Tensor:
        """As `StepController.replace_failed`."""
        return replace_failed(y, self._failed)

    def stop(self, systems: Tensor) -> None:
        """As `StepController.stop`."""
        with below_all_transforms():
            self._active[systems] = False

    @property
    def last_error(self) -> Any:
        """As `StepController.last_error`."""
        return self._last_error

    def report(self) -> tuple[Any, Any, Any]:
        """As `StepController.report`."""
        return self._status, self._accepted, self._rejected


def _least(now: Any, span: Any) -> Any:
    """The shortest step at a time: a few units of its last place."""
    return 10 * EPS * (abs(now) + EPS * span)
