"""Which steps are taken: equal ones, those that the error allows, or those of an earlier solve."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from ..solution import Status
from .solvers import Adaptive, FixedStep

_ROUNDING = 1e-9  # of a number of steps
_EPS = torch.finfo(torch.float64).eps  # of time, which is kept in float64
_LAST = 16 * _EPS  # what may be left of the span at its end, as a fraction
_ALIKE = 4  # so many last steps, or fewer, are of one length: no tiny one is left over, and fewer are rejected
_STRETCH = 0.05  # fraction by which these may be longer than the error allows, rather than one more
_LOOKS = 12  # first steps that may be given up, one after the other
_LEAST_ERROR = 1e-4  # below this the error says nothing of the next step
_SHRINK_FIRST, _SHRINK, _GROW = 0.1, 0.2, 10.0  # bounds of the change from step to step
_LEAST_ORDER = 0.5  # that two attempts may show
_WORTH_FIRST, _WORTH = 0.5, 0.7  # promised shares of the first step, and of shorter ones, with which they go on
_LEAST_SHARE = 1e-3  # that is believed
_CHANGES_OF_MIND = 2  # shorter first steps, one after the other, that a smooth field may ask for
_DOUBTFUL = 0.1  # largest error that is accepted from an estimate that does not fall as its order says
_NO_ROWS = torch.empty(0, dtype=torch.long)


@dataclasses.dataclass
class Step:
    """A step of some systems, in the interval from output time `a` to output time `b`.

    Attributes:
        start, size: as fractions of the interval; a number for all, or (rows,), float64 on the host.
        rows: the systems that take it, on the host; None: all.
    """

    a: int
    b: int
    start: float | Tensor
    size: float | Tensor
    rows: Tensor | None = None

    def shared(self) -> tuple[float, float]:
        """Start and size, where there is one for all."""
        assert isinstance(self.start, float)
        assert isinstance(self.size, float)
        return self.start, self.size

    def each(self) -> tuple[Tensor, Tensor]:
        """Start and size, where each row has its own."""
        assert isinstance(self.start, Tensor)
        assert isinstance(self.size, Tensor)
        return self.start, self.size

    def only(self, chosen: Tensor) -> Step:
        """The step of some of its rows."""
        start, size = self.each()
        rows = chosen if self.rows is None else self.rows[chosen]
        return Step(self.a, self.b, start[chosen], size[chosen], rows)


class Plan(ABC):
    """Hands out steps, one after the other. `judge` says for which rows a step counts.

    Attributes:
        needs_error: `judge` wants the error of each step.
    """

    needs_error = False

    @property
    def tentative(self) -> bool:
        """`look` wants to see the next step when it has begun."""
        return False

    @abstractmethod
    def next(self) -> Step | None:
        """The next step to try; None when all is done, or cannot go on."""

    def look(self, step: Step, share: list[float]) -> bool:
        """Whether to go on with a step that has begun, given the share of it that is good for each row."""
        return True

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """Rows (positions in the step) that are accepted, given the error of each; None: all."""
        return None

    def stop(self, systems: Tensor) -> None:
        """No more steps of these systems."""
        raise NotImplementedError

    @property
    def error(self) -> Any:
        """Error over tolerance of the last accepted step, of each system; NaN where it is not estimated."""
        return math.nan

    def report(self) -> tuple[Any, Any, Any]:
        """Status, accepted and rejected steps of each system; numbers, where all systems share them."""
        return int(Status.CONVERGED), 0, 0


class Recorded(Plan):
    """Steps that are known: those of an earlier solve."""

    def __init__(self, steps: Sequence[Step], systems: int = 1) -> None:
        self._steps, self._taken, self._going = steps, 0, systems

    def next(self) -> Step | None:
        """As `Plan.next`."""
        if self._taken == len(self._steps) or not self._going:
            return None
        self._taken += 1
        return self._steps[self._taken - 1]

    def stop(self, systems: Tensor) -> None:
        """As `Plan.stop`; all go on until the last of them stops."""
        self._going -= len(systems)

    def report(self) -> tuple[Any, Any, Any]:
        """As `Plan.report`."""
        return int(Status.CONVERGED), self._taken, 0


def equal_steps_each(solver: FixedStep, times: Sequence[float], systems: int) -> Recorded:
    """As `equal_steps` of one interval, written as steps of each system."""
    steps = []
    for step in equal_steps(solver, times)._steps:
        start, size = (torch.full((systems,), value, dtype=torch.float64) for value in step.shared())
        steps.append(Step(step.a, step.b, start, size))
    return Recorded(steps, systems)


def equal_steps(solver: FixedStep, times: Sequence[float]) -> Recorded:
    """Equal steps within each interval between output times."""
    steps = []
    for a, length in enumerate(abs(y - x) for x, y in itertools.pairwise(times)):
        count = 1 if solver.step_size is None else max(1, math.ceil(length / solver.step_size - 1e-9))
        steps += [Step(a, a + 1, k / count, 1 / count) for k in range(count)]
    return Recorded(steps)


class Controlled(Plan):
    """Steps of an adaptive method over the whole span, by a PI controller; the same for all systems.

    Args:
        solver: the method.
        times: output times.
        size: of the first step, as a fraction of the span; None: the solver's.
    """

    needs_error = True

    def __init__(self, solver: Adaptive, times: Sequence[float], size: float | None = None) -> None:
        self._solver, self._times, self._intervals = solver, times, len(times) - 1
        self._order = solver.tableau.error_order + 1
        self._at, self.size = 0.0, _first_size(solver, times) if size is None else size
        self._looks, self._given_up = _looks(solver) if size is None else 0, 0
        self._last_error = 1.0  # of the last accepted step
        self._rejected_at: tuple[float, float] | None = None  # size and error of the last attempt, if it was rejected
        self._active = self._intervals > 0
        self._status, self._accepted, self._rejected = Status.CONVERGED, 0, 0

    def next(self) -> Step | None:
        """As `Plan.next`."""
        if not self._active:
            return None
        if self._accepted + self._rejected == self._solver.max_steps:
            self._status = Status.MAX_STEPS
            return None
        left = 1.0 - self._at
        stretch = _STRETCH if self._rejected_at is None else _ROUNDING
        count = max(1, math.ceil(left / self.size * (1 - stretch)))
        return Step(0, self._intervals, self._at, left / count if count <= _ALIKE else self.size)

    @property
    def tentative(self) -> bool:
        """As `Plan.tentative`: the first step, unless its size is given."""
        return self._looks > 0

    def look(self, step: Step, share: list[float]) -> bool:
        """As `Plan.look`: less than half of it is not worth the rest of its stages."""
        least, (_, taken) = min(share, default=math.inf), step.shared()
        good = least >= _worth(self._looks)
        self._looks = 0 if good else self._looks - 1
        self._given_up += not good
        if not good:
            with temporarily_clear_interpreter_stack():
                self.size = _equal_parts(torch.tensor(taken * max(least, _LEAST_SHARE), dtype=torch.float64)).item()
        return good

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """As `Plan.judge`; adapts the step. The largest error counts (there are several under `vmap`)."""
        e = max(error, default=0.0) if all(map(math.isfinite, error)) else math.inf
        start, taken = step.shared()
        order = self._shown_order(taken, e)
        most = 1.0 if order > 1 else _DOUBTFUL
        if e <= most:
            self._accepted += 1
            e = max(e, _LEAST_ERROR)
            factor = self._solver.safety * e ** (-0.85 / self._order) * self._last_error ** (0.2 / self._order)
            self.size = taken * min(max(factor, _SHRINK), _GROW if self._rejected_at is None else 1.0)
            self._last_error, self._rejected_at = e, None
            self._at = start + taken
            self._active = self._at <= 1 - _LAST
            return None
        factor = 0.0 if e == math.inf else self._solver.safety * (most / e) ** (1 / order)
        self.size = taken * max(factor, _SHRINK if self._accepted else _SHRINK_FIRST)
        self._rejected += 1
        self._rejected_at = taken, e
        if self.size < _least(start, self._times):
            self._active, self._status = False, Status.DIVERGED if e == math.inf else Status.STALLED
        return _NO_ROWS

    def _shown_order(self, size: float, error: float) -> float:
        """The order that the errors of this attempt and of a rejected one before it show, at most the method's.

        At most 1, where look after look asked for less: so does a kink.
        """
        most = self._order if self._accepted or self._given_up <= _CHANGES_OF_MIND else 1
        if self._rejected_at is None or not math.isfinite(self._rejected_at[1]) or not 0 < error < math.inf:
            return most
        size_before, error_before = self._rejected_at
        order = math.log(error_before / error) / math.log(size_before / size)
        return min(max(order, _LEAST_ORDER), most)

    def stop(self, systems: Tensor) -> None:
        """As `Plan.stop`; there is one for all."""
        self._active = False

    @property
    def error(self) -> Any:
        """As `Plan.error`."""
        return self._last_error

    def report(self) -> tuple[Any, Any, Any]:
        """As `Plan.report`."""
        return int(self._status), self._accepted, self._rejected


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
        self._solver, self._times, self._intervals, self._compact = solver, times, len(times) - 1, compact
        self._order = solver.tableau.error_order + 1
        with temporarily_clear_interpreter_stack():
            self._at = torch.zeros(systems, dtype=torch.float64)
            self._size = torch.full_like(self._at, _first_size(solver, times))
            self._last_error = torch.ones_like(self._at)
            self._active = torch.full((systems,), self._intervals > 0)
            # Size and error of the last attempt of each, if it was rejected; else NaN.
            self._rejected_size = torch.full_like(self._at, torch.nan)
            self._rejected_error = torch.full_like(self._at, torch.nan)
            self._status = torch.full((systems,), int(Status.CONVERGED))
            self._accepted, self._rejected = torch.zeros_like(self._status), torch.zeros_like(self._status)
            self._given_up = torch.zeros_like(self._status)
            self._looks = _looks(solver)
            self._unsure = torch.full((systems,), self._looks > 0)

    def next(self) -> Step | None:
        """As `Plan.next`."""
        with temporarily_clear_interpreter_stack():
            over = self._active & (self._accepted + self._rejected >= self._solver.max_steps)
            self._status[over] = int(Status.MAX_STEPS)
            self._active &= ~over
            if not self._active.any():
                return None
            left = 1.0 - self._at
            stretch = torch.where(self._rejected_size.isnan(), _STRETCH, _ROUNDING)
            count = (left / self._size * (1 - stretch)).ceil().clamp(min=1)
            size = torch.where(count <= _ALIKE, left / count, self._size)
            if not self._compact:
                return Step(0, self._intervals, self._at.clone(), torch.where(self._active, size, 0.0))
            chosen = self._active & self._unsure if self._unsure.any() else self._active
            rows = chosen.nonzero().squeeze(1)
            return Step(0, self._intervals, self._at[rows], size[rows], rows)

    @property
    def tentative(self) -> bool:
        """As `Controlled.tentative`: until the steps of all rows are good."""
        with temporarily_clear_interpreter_stack():
            return bool(self._unsure.any())

    def look(self, step: Step, share: list[float]) -> bool:
        """As `Controlled.look`, for each row; where some begin anew, the others wait for them."""
        with temporarily_clear_interpreter_stack():
            rows = torch.arange(len(self._at)) if step.rows is None else step.rows
            found = torch.tensor(share, dtype=torch.float64)
            bad = self._unsure[rows] & (found < _worth(self._looks))
            size = _equal_parts(step.each()[1] * found.clamp(min=_LEAST_SHARE))
            self._size[rows] = torch.where(bad, size, self._size[rows])
            self._given_up[rows] += bad
            self._looks -= 1
            self._unsure[rows] = bad if self._looks else False
            return not bool(bad.any())

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """As `Plan.judge`; adapts the steps."""
        _, taken = step.each()
        with temporarily_clear_interpreter_stack():
            rows = torch.arange(len(self._at)) if step.rows is None else step.rows
            errors = torch.tensor(error, dtype=torch.float64)
            active, finite = self._active[rows], torch.isfinite(errors)
            order = self._shown_order(rows, taken, errors)
            accept = torch.where(order > 1, 1.0, _DOUBTFUL)
            good, bad = active & (errors <= accept), active & ~(errors <= accept)
            e = torch.where(finite, errors, torch.inf).clamp(min=_LEAST_ERROR)
            grown = e ** (-0.85 / self._order) * self._last_error[rows] ** (0.2 / self._order)
            allowed = self._solver.safety * torch.where(good, grown, (accept / e) ** (1 / order))
            least = torch.where(bad & (self._accepted[rows] == 0), _SHRINK_FIRST, _SHRINK)
            most = torch.where(self._rejected_size[rows].isnan(), _GROW, 1.0)
            size = taken * torch.minimum(torch.maximum(allowed, least), most)
            stuck = bad & (size < _least(self._at[rows], self._times))
            failure = torch.where(finite, int(Status.STALLED), int(Status.DIVERGED))

            self._at[rows] += torch.where(good, taken, 0.0)
            self._last_error[rows] = torch.where(good, e, self._last_error[rows])
            self._size[rows] = torch.where(active, size, self._size[rows])
            self._rejected_size[rows] = torch.where(bad, taken, torch.nan)
            self._rejected_error[rows] = torch.where(bad, errors, torch.nan)
            self._accepted[rows] += good
            self._rejected[rows] += bad
            self._status[rows] = torch.where(stuck, failure, self._status[rows])
            self._active[rows] = active & ~stuck & (self._at[rows] <= 1 - _LAST)
            return None if bool(good.all()) else good.nonzero().squeeze(1)

    def _shown_order(self, rows: Tensor, size: Tensor, error: Tensor) -> Tensor:
        """As `Controlled._shown_order`."""
        size_before, error_before = self._rejected_size[rows], self._rejected_error[rows]
        smooth = (self._accepted[rows] > 0) | (self._given_up[rows] <= _CHANGES_OF_MIND)
        most = torch.where(smooth, float(self._order), 1.0)
        order = (error_before / error).log() / (size_before / size).log()
        known = torch.isfinite(error_before) & torch.isfinite(error) & (error > 0)
        return torch.where(known, torch.minimum(order.clamp(min=_LEAST_ORDER), most), most)

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


def _least(at: Any, times: Sequence[float]) -> Any:
    """The shortest step at a fraction of the span, as a fraction: a few units of the last place of the time there."""
    span = times[-1] - times[0]
    return 10 * _EPS * (abs(times[0] / span + at) + _EPS)


def _looks(solver: Adaptive) -> int:
    """How often a first step may be given up; of implicit methods never: what falls fast needs no short steps there."""
    return 0 if solver.first_step is not None or solver.tableau.implicit else _LOOKS


def _worth(looks: int) -> float:
    return _WORTH_FIRST if looks == _LOOKS else _WORTH


def _equal_parts(size: Tensor) -> Tensor:
    """The nearest size of which one, two, ... alike make up the span, where so few do: a promise is no bound."""
    count = (1 / size).round()
    return torch.where(count <= _ALIKE, 1 / count, size)


def _first_size(solver: Adaptive, times: Sequence[float]) -> float:
    span = abs(times[-1] - times[0])
    return 1.0 if solver.first_step is None or not span else min(1.0, solver.first_step / span)
