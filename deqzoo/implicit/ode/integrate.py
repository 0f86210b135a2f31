"""The one loop over steps: explicit and implicit methods, fixed and adaptive, new and replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..sending import send
from .controllers import Fault, Step, StepController
from .defects import InsideChecks
from .initial_step import select_initial_step
from .interpolants import Keep, Taken
from .norms import Norm, on_host
from .outputs import Outputs
from .solvers import Adaptive
from .stage_values import Length, Stages, coefficients
from .steps import Stepper
from .times import Times
from .tolerances import scale
from .trajectory import Checkpoints, Trajectory


def integrate(
    stepper: Stepper,
    y: Tensor,
    times: Times,
    controller: StepController,
    *,
    first: Tensor | None = None,
    checkpoints: int = 0,
    controlled: int | None = None,
    keep: Keep | None = None,
) -> Trajectory:
    """Take the steps of a controller.

    Args:
        stepper: of the method and the field.
        y: state at the first output time, (systems, unknowns).
        times: output times.
        controller: which steps.
        first: f there, where it is known.
        checkpoints: states to keep, see `Checkpoints`.
        controlled: unknowns, the first ones, whose error counts; None: all.
        keep: sees each step that was accepted, keeps its dense output, and says who is done.
    """
    run = _Integration(stepper, y, times, controller, first, checkpoints, controlled, keep)
    while (step := run.next_step()) is not None:
        attempt = run.attempt(step)
        accepted = run.judge(attempt)
        if accepted is None or len(accepted):
            run.take(attempt, accepted)
    return run.trajectory()


@dataclasses.dataclass
class _Attempt:
    """A step that was computed, and may be rejected.

    Attributes:
        step: which.
        rows: the systems that try it, on the device; None: all.
        t, h: begin and length.
        before: the state there, (rows, unknowns).
        first: f there, where it was known before.
        new: the state after the step.
        stages: its stages.
    """

    step: Step
    rows: Tensor | None
    t: Tensor
    h: Length
    before: Tensor
    first: Tensor | None
    new: Tensor
    stages: Stages


class _Integration:
    """One solve; `integrate` tells of its arguments."""

    def __init__(
        self,
        stepper: Stepper,
        y: Tensor,
        times: Times,
        controller: StepController,
        first: Tensor | None,
        checkpoints: int,
        controlled: int | None,
        keep: Keep | None,
    ) -> None:
        self._stepper, self._times, self._controller, self._keep = stepper, times, controller, keep
        self._y, self._first = y, first  # where the solve has come to, and f there, where that is known
        self._outputs, self._checkpoints = Outputs(times, y), Checkpoints(checkpoints)
        self._norm, self._steps = Norm(controlled, controller.together), list[Step]()
        self._checks = InsideChecks(stepper, self._norm, keep is not None) if controller.needs_error else None
        self._known_stages: Stages | None = None  # of the next step
        self._fault: Fault | None = None
        self._starting = controller.needs_first_step

    def next_step(self) -> Step | None:
        """The next step to try, without the systems that have failed; None at the end."""
        if self._starting:
            self._select_initial_step()
        while (failed := self._controller.drop_failed(self._fault)) is not None:
            self._outputs.fail(failed, self._y)
            self._norm.leave_out(failed, self._y)
            self._y, self._first = self._controller.replace_failed(self._y), None
            self._known_stages = None
            if self._starting:
                self._select_initial_step()
        self._starting = False
        return self._controller.next_step()

    def _select_initial_step(self) -> None:
        self._first, self._known_stages = select_initial_step(
            self._stepper, self._times, self._controller, self._y, self._first, self._norm
        )
        self._fault = Fault(self._y, self._first)

    def attempt(self, step: Step) -> _Attempt:
        """Compute a step."""
        stepper, times = self._stepper, self._times
        self._y = step.replace_failed(self._y)
        self._first = None if self._first is None else step.replace_failed(self._first)
        rows = None if step.rows is None else send(step.rows, self._y.device)
        t, h = times.step(step)
        stepper.limits = times.limits(step)
        before, first = _rows_of(self._y, rows), None if times.from_jump(step) else _rows_of(self._first, rows)
        if first is None and stepper.tableau.last_is_next:
            first = stepper.evaluate(t, before, rows)
            self._first = _put(self._first, first, rows, None)
        new, stages = stepper.step(t, h, before, first, rows, self._known_stages)
        self._known_stages = None
        return _Attempt(step, rows, t, h, before, first, new, stages)

    def judge(self, attempt: _Attempt) -> Tensor | None:
        """The rows (positions in the step, on the host) whose error is within the tolerance; None: all."""
        if self._checks is None:
            return None
        step, stages, before = attempt.step, attempt.stages, attempt.before
        measured = self._stepper, stages, attempt.h, before, attempt.new, attempt.rows, self._norm
        found = on_host(errors(*measured), len(before), largest=True)
        last = self._controller.last_error if step.rows is None else self._controller.last_error[step.rows]
        inside = self._outputs.inside(step, self._checks.fractions) if self._checks.watches_dense else None
        found = self._checks(attempt.t, attempt.h, before, attempt.new, stages, attempt.rows, found, last, inside)
        of_each = partial(_largest, partial(errors, *measured, each=True), self._checks.of_each)
        self._fault = Fault(before, stages.get(0), of_each)
        return self._controller.judge(step, found)

    def take(self, attempt: _Attempt, accepted: Tensor | None) -> None:
        """Go on from a step, for the rows that are accepted."""
        if accepted is not None:
            attempt, accepted = self._without_rejected(attempt, accepted)
        stepper, step, stages = self._stepper, attempt.step, attempt.stages
        number = len(self._steps)
        self._checkpoints.offer(number, (self._y, self._first if stepper.tableau.implicit else None))
        self._steps.append(step)
        taken = Taken(number, step, stepper, attempt.t, attempt.h, attempt.before, stages, accepted)
        self._outputs.add(taken, attempt.new)
        if self._keep is not None:
            done = self._keep.see(taken)
            if len(done):
                self._controller.stop(done)
        last = _first_of_next(stepper, stages)
        self._y = _put(self._y, attempt.new, attempt.rows, accepted)
        self._first = None if last is None else _put(self._first, last, attempt.rows, accepted)

    def _without_rejected(self, attempt: _Attempt, accepted: Tensor) -> tuple[_Attempt, Tensor | None]:
        """The step of the accepted rows, and where they are among those of the attempt (None: these are all)."""
        step, accepted = attempt.step.only(accepted), send(accepted, self._y.device)
        if not self._stepper.taped:
            return dataclasses.replace(attempt, step=step), accepted
        # On the tape what was rejected may not be finite, and zero times its derivative spoils that of the rest.
        before, first = attempt.before[accepted], None if attempt.first is None else attempt.first[accepted]
        rows = accepted if attempt.rows is None else attempt.rows[accepted]
        t, h = self._times.step(step)
        self._stepper.limits = self._times.limits(step)
        new, stages = self._stepper.step(t, h, before, first, rows)
        return _Attempt(step, rows, t, h, before, first, new, stages), None

    def trajectory(self) -> Trajectory:
        """What the solve leaves behind."""
        values, missing = self._outputs.finish(self._y)
        dense = None if self._keep is None else self._keep.finish()
        points, states = self._outputs.points, self._checkpoints.states
        trajectory = Trajectory(values, self._steps, points, missing, states, self._y, dense)
        return trajectory if self._controller.needs_error else trajectory.watched()


def _rows_of(x: Any, rows: Tensor | None) -> Any:
    """Some systems of a tensor, or of None; with None as `rows`, all."""
    return x if x is None or rows is None else x[rows]


def _put(whole: Tensor | None, new: Tensor, rows: Tensor | None, accepted: Tensor | None) -> Any:
    """All systems, with new values of those (`rows`, None: all) whose step was `accepted`; None if they are unknown."""
    if rows is None and accepted is None:
        return new
    if whole is None:
        return None
    if accepted is None:
        return whole.index_copy(0, rows, new)  # type: ignore[arg-type]
    return whole.index_copy(0, accepted if rows is None else rows[accepted], new[accepted])


def _first_of_next(stepper: Stepper, stages: Stages) -> Tensor | None:
    """f at the end of a step, where one of its stages stands there."""
    tableau = stepper.tableau
    if tableau.last_is_next:
        return stages.get(tableau.stages - 1)
    return stages.get(len(tableau.a) - 1) if tableau.dense_is_next and stages.filled == len(tableau.a) else None


def errors(
    stepper: Stepper,
    stages: Stages,
    h: Length,
    before: Tensor,
    new: Tensor,
    rows: Tensor | None,
    norm: Norm,
    each: bool = False,
) -> Tensor:
    """Estimated error over tolerance of the systems `rows`, as the norm has it; with `each`, of each row alone."""
    options, co = stepper.solver, coefficients(stepper.tableau, before)
    assert isinstance(options, Adaptive)
    size = norm.rows if each else norm
    with torch.no_grad():
        unit = scale(options, norm.cut(torch.maximum(before.abs(), new.abs())), rows)
        error = size(norm.cut(stages.sum(co.error)) * h / unit)
        if len(co.error3):
            other = size(norm.cut(stages.sum(co.error3)) * h / unit)
            error = error * torch.where(error > 0, error / torch.hypot(error, 0.1 * other), 1.0)
    return error


def _largest(errors: Callable[[], Tensor], other: Tensor | None) -> Tensor:
    return errors() if other is None else torch.fmax(errors(), other)
