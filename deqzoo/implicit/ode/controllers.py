"""Which steps are taken: a controller hands them out. Equal and recorded ones; others: `step_control`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..modes import in_transform, unwrap
from ..sending import send
from ..solution import Status
from .solvers import FixedStep

ROUNDING = 1e-9  # of a number of steps
EPS = torch.finfo(torch.float64).eps  # of time, which is kept in float64
LAST = 16 * EPS  # what may be left of a segment at its end, as a fraction
EPS32 = torch.finfo(torch.float32).eps
_ROUNDINGS = 4  # of the larger time, that two times may be apart too far: of n, of h, and of n h, and what is to spare
_LONGER = 0.1  # most that a step may be longer than it should: where times are so coarse, the intervals differ as much


@dataclasses.dataclass
class Step:
    """A step of some systems, in the segment from point `a` to point `b` (see `Times`).

    Attributes:
        a, b: numbers of points; of each row, (rows,) on the host, where they differ.
        start, size: as fractions of the segment; a number for all, or (rows,), float64 on the host.
        rows: the systems that take it, on the host; None: all.
        failed: systems that have failed, on the host, and one that has not, whose state stands in for theirs: so that
            f and its derivatives are finite there.
    """

    a: int | Tensor
    b: int | Tensor
    start: float | Tensor
    size: float | Tensor
    rows: Tensor | None = None
    failed: tuple[Tensor, int] | None = None

    def replace_failed(self, y: Tensor) -> Tensor:
        """States before the step, (systems, unknowns), where those of the failed ones are another's."""
        return replace_failed(y, self.failed)

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

    def segment(self) -> tuple[int, int]:
        """The points, where they are the same for all."""
        assert isinstance(self.a, int)
        assert isinstance(self.b, int)
        return self.a, self.b

    @property
    def last(self) -> Any:
        """Whether it ends where its segment does, of each row where these differ."""
        return self.start + self.size > 1 - LAST

    def only(self, chosen: Tensor) -> Step:
        """The step of some of its rows."""
        start, size = self.each()
        rows = chosen if self.rows is None else self.rows[chosen]
        a, b = (x if isinstance(x, int) else x[chosen] for x in (self.a, self.b))
        return Step(a, b, start[chosen], size[chosen], rows, self.failed)


@dataclasses.dataclass
class Fault:
    """Where to look for the systems that keep the others from going on.

    Attributes:
        y, first: state and f before the last attempt, (systems, unknowns).
        errors: error over tolerance of each system in the last attempt; None: there was none.
    """

    y: Tensor
    first: Tensor
    errors: Callable[[], Tensor] | None = None

    def read(self) -> tuple[Tensor, Tensor] | None:
        """The errors, and where no step can help, as f is not finite before it, on the host; None under `vmap`."""
        bad = ~(self.y.isfinite().all(dim=1) & self.first.isfinite().all(dim=1))
        error = torch.where(bad, torch.inf, 0.0 if self.errors is None else self.errors())
        both = torch.stack([error.detach(), bad.to(error.dtype)])
        both = (unwrap(both) if in_transform() else both).cpu().double()
        return (both[0], both[1] > 0) if both.dim() == 2 else None


class StepController(ABC):
    """Hands out steps, one after the other. `judge` says for which rows a step counts.

    Attributes:
        needs_error: `judge` wants the error of each step.
        needs_first_step: it wants to be told the length of the first step.
        together: separate systems share their steps, by the error of all.
    """

    needs_error = False
    needs_first_step = False
    together = False

    def set_first_step(self, lengths: list[float]) -> None:
        """Take the length of the first step, of each system, in units of t; NaN: f is not finite there."""
        raise TypeError(f"{type(self).__name__} needs no length of a first step")

    def whole_span(self) -> Step:
        """A step of the whole span, of all systems, where a first step is needed."""
        raise TypeError(f"{type(self).__name__} needs no length of a first step")

    @abstractmethod
    def next_step(self) -> Step | None:
        """The next step to try; None when all is done, or cannot go on."""

    def judge(self, step: Step, error: list[float]) -> Tensor | None:
        """Rows (positions in the step) that are accepted, given the error of each; None: all."""
        return None

    def drop_failed(self, fault: Fault | None) -> Tensor | None:
        """Systems that have failed since the last call, and that the others go on without; None: none."""
        return None

    def replace_failed(self, y: Tensor) -> Tensor:
        """As `Step.replace_failed`, of the next step."""
        return y

    def stop(self, systems: Tensor) -> None:
        """No more steps of these systems, where steps may end early."""
        raise TypeError(f"{type(self).__name__} cannot end early")

    @property
    def last_error(self) -> Any:
        """Error over tolerance of the last accepted step, of each system; NaN where it is not estimated."""
        return math.nan

    def report(self) -> tuple[Any, Any, Any]:
        """Status, accepted and rejected steps of each system; numbers, where all systems share them."""
        return int(Status.CONVERGED), 0, 0


class RecordedSteps(StepController):
    """Steps that are known: those of an earlier solve."""

    def __init__(self, steps: Sequence[Step], systems: int = 1) -> None:
        self._steps, self._taken, self._going = steps, 0, systems

    def next_step(self) -> Step | None:
        """As `StepController.next_step`."""
        if self._taken == len(self._steps) or not self._going:
            return None
        self._taken += 1
        return self._steps[self._taken - 1]

    def stop(self, systems: Tensor) -> None:
        """As `StepController.stop`; all go on until the last of them stops."""
        self._going -= len(systems)

    def report(self) -> tuple[Any, Any, Any]:
        """As `StepController.report`."""
        return int(Status.CONVERGED), self._taken, 0


def equal_steps_each(solver: FixedStep, times: Sequence[float], eps: float, systems: int) -> RecordedSteps:
    """As `equal_steps` of one interval, written as steps of each system."""
    steps = []
    for step in equal_steps(solver, times, eps)._steps:
        start, size = (torch.full((systems,), value, dtype=torch.float64) for value in step.shared())
        steps.append(Step(step.a, step.b, start, size))
    return RecordedSteps(steps, systems)


def equal_steps(solver: FixedStep, times: Sequence[float], eps: float) -> RecordedSteps:
    """Equal steps within each interval between output times, which are rounded to `eps`, and jumps."""
    steps = []
    points, eps = [*times, *solver.jump_times], rounding_of(times, eps)
    for i in range(len(times) - 1):
        inside = [len(times) + j for j in jumps_inside(solver.jump_times, times[i], times[i + 1])]
        for a, b in itertools.pairwise([i, *inside, i + 1]):
            count = step_count(points[a], points[b], solver.step_size, eps)
            steps += [Step(a, b, k / count, 1 / count) for k in range(count)]
    return RecordedSteps(steps)


def rounding_of(times: Sequence[float], eps: float = EPS) -> float:
    """The relative rounding of times whose dtype has `eps`: that of float32 where all are numbers of float32.

    For then they were computed in it, most often, and have come here through ``tolist()``, ``double()``, or NumPy.

    >>> rounding_of([2.8, 3.2]) == EPS, rounding_of(torch.tensor([2.8, 3.2]).tolist()) == EPS32
    (True, True)
    """
    split = 2.0**29 + 1  # Veltkamp's splitting into 24 digits and the other ones; plain sums, which a graph can hold
    return max(eps, EPS32) if all(x == x * split - (x * split - x) for x in times) else eps


def step_count(start: float, end: float, step_size: float | None, eps: float = EPS) -> int:
    """How many equal steps of at most `step_size` an interval takes; one where that is None.

    Rounding adds no step: in float32 the interval from 7 x 0.4 to 8 x 0.4 is longer than 0.4, and is one step of 0.4 as
    its neighbours are. That matters most to symplectic methods, which keep the energy as long as steps are equal.

    Args:
        eps: the relative rounding of the two times.

    >>> a, b = torch.tensor([2.8, 3.2]).tolist()
    >>> round(b - a, 9)
    0.400000095
    >>> step_count(a, b, 0.4), step_count(a, b, 0.4, torch.finfo(torch.float32).eps)
    (2, 1)
    >>> step_count(2.8, 3.2001, 0.4, torch.finfo(torch.float32).eps)
    2
    """
    if step_size is None:
        return 1
    length = abs(end - start)
    rounding = min(_ROUNDINGS * eps * max(abs(start), abs(end)), _LONGER * length)
    return max(1, math.ceil((length - rounding) / step_size - ROUNDING))


def jumps_inside(jumps: Sequence[float], start: float, end: float) -> list[int]:
    """The numbers of the jumps between two times, in the order in which they come."""
    inside = [j for j, jump in enumerate(jumps) if min(start, end) < jump < max(start, end)]
    return sorted(inside, key=lambda j: abs(jumps[j] - start))


def replace_failed(y: Tensor, failed: tuple[Tensor, int] | None) -> Tensor:
    """y (systems, unknowns) with another system's state in place of those of the failed ones."""
    if failed is None:
        return y
    rows, other = failed
    return y.index_copy(0, send(rows, y.device), y[other].expand(len(rows), -1))
