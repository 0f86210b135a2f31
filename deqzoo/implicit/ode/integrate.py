"""The one loop over steps: explicit and implicit methods, fixed and adaptive, new and replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from ..pytree import Tensors
from .defects import Looks
from .interpolants import Keep, Kept, Taken
from .norms import Norm, on_host
from .plans import Fault, Plan, Step
from .solvers import Adaptive
from .start import begin
from .steps import Length, Stages, Stepper, coefficients, dense_weights
from .times import Times
from .tolerances import scale

_ROUNDING = 1e-9  # of a fraction of a step
State = tuple[Tensor, Tensor | None]  # and f there, where it is known


@dataclasses.dataclass
class Points:
    """Output times within a step.

    Attributes:
        index: which output times, (points,).
        position: at which rows of the step, (points,); None: at all rows, which share their steps.
        end: they lie at the end of the step, where no interpolation is needed.
    """

    index: Tensor
    position: Tensor | None
    end: bool


@dataclasses.dataclass
class Trajectory:
    """What a solve leaves behind.

    Attributes:
        values: the state at the output times, (times, systems, unknowns).
        steps: what was done.
        points: the output times of each step.
        missing: (times, systems), true where a failed solve did not get to; there `values` has the last state. On the
            host, except of fixed steps, which are not watched: there `values` is what they computed.
        checkpoints: states before some of the steps, by the step's number; of an implicit method with f there, as its
            last stage had it: where f is stiff, f of a state that is right within the tolerance is far from it.
        last: the state after all steps, (systems, unknowns).
        kept: the dense output of some of the steps, where it was asked for.
        reached: of fixed steps, the number of output times before the first one with a value that is not finite,
            (systems,).
        failed: where `relevant` has found any, the systems that did not get to the end, on the host.
    """

    values: Tensor
    steps: list[Step]
    points: list[list[Points]]
    missing: Tensor
    checkpoints: dict[int, State]
    last: Tensor
    kept: Kept | None = None
    reached: Tensor | None = None
    failed: Tensor | None = None

    def others(self, systems: int, device: torch.device) -> Tensor | None:
        """Which systems have failed, (systems, 1); None: none. Near a pole what is computed again is not the same."""
        if self.failed is None:
            return None
        mask = torch.zeros(systems, 1, dtype=torch.bool)
        mask[self.failed] = True
        return mask.to(device)

    @property
    def outputs(self) -> Tensors:
        """`values`, and the tensors of the dense output, where it was asked for."""
        return (self.values,) if self.kept is None else (self.values, self.kept.before, self.kept.stages)

    def without_values(self) -> Trajectory:
        """The same, without what a graph would have to hold."""
        kept = None if self.kept is None else self.kept.without_values()
        return dataclasses.replace(self, values=self.values[:0], kept=kept)


class Checkpoints:
    """Keeps the state before every step, up to `limit` of them; then before every second, every fourth, ..."""

    def __init__(self, limit: int) -> None:
        self.limit, self.stride = limit, 1
        self.states: dict[int, State] = {}

    def offer(self, number: int, state: State) -> None:
        """The state before step `number`."""
        if self.limit and len(self.states) == self.limit and number % self.stride == 0:
            self.stride *= 2
            self.states = {n: s for n, s in self.states.items() if n % self.stride == 0}
        if self.limit and number % self.stride == 0:
            self.states[number] = state


def integrate(
    stepper: Stepper,
    y: Tensor,
    times: Times,
    plan: Plan,
    *,
    first: Tensor | None = None,
    checkpoints: int = 0,
    controlled: int | None = None,
    keep: Keep | None = None,
) -> Trajectory:
    """Take the steps of a plan.

    Args:
        stepper: of the method and the field.
        y: state at the first output time, (systems, unknowns).
        times: output times.
        plan: which steps.
        first: f there, where it is known.
        checkpoints: states to keep, see `Checkpoints`.
        controlled: unknowns, the first ones, whose error counts; None: all.
        keep: sees each step that was accepted, keeps its dense output, and says who is done.
    """
    reuses = stepper.tableau.last_is_next
    outputs, kept = _Outputs(times, y), Checkpoints(checkpoints)
    norm, steps = Norm(controlled, plan.together), list[Step]()
    looks = Looks(stepper, norm, keep is not None) if plan.needs_error else None
    begun: Stages | None = None
    fault: Fault | None = None
    starting = plan.needs_length
    while True:
        if starting:
            first, begun = begin(stepper, times, plan, y, first, norm)
            fault = Fault(y, first)
        if (lost := plan.leave(fault)) is not None:
            outputs.leave(lost, y)
            norm.leave(lost, y)
            y, first, begun = plan.replaced(y), None, None
            continue
        starting = False
        if (step := plan.next()) is None:
            break
        y, first = step.replaced(y), None if first is None else step.replaced(first)
        rows = None if step.rows is None else step.rows.to(y.device)
        t, h = times.step(step)
        stepper.limits = times.limits(step)
        before = y if rows is None else y[rows]
        known = None if first is None or times.from_jump(step) else first if rows is None else first[rows]
        if known is None and reuses:
            known = stepper.evaluate(t, before, rows)
            first = known if rows is None else None if first is None else first.index_copy(0, rows, known)
        new, stages = stepper.step(t, h, before, known, rows, begun)
        accepted, begun = None, None
        if looks is not None:
            measured = stepper, stages, h, before, new, rows, norm
            found = on_host(errors(*measured), len(before), largest=True)
            inside = outputs.inside(step, looks.fractions) if looks.watches_dense else None
            last = plan.error if step.rows is None else plan.error[step.rows]
            found = looks(t, h, before, new, stages, rows, found, last, inside)
            fault = Fault(before, stages.get(0), partial(_largest, partial(errors, *measured, each=True), looks.each))
            accepted = plan.judge(step, found)
        if accepted is not None:
            if not len(accepted):
                continue
            step, accepted = step.only(accepted), accepted.to(y.device)
            if stepper.taped:  # what was rejected may not be finite: zero times its derivative spoils that of the rest
                before, known = before[accepted], None if known is None else known[accepted]
                rows, accepted = accepted if rows is None else rows[accepted], None
                t, h = times.step(step)
                stepper.limits = times.limits(step)
                new, stages = stepper.step(t, h, before, known, rows)
        kept.offer(len(steps), (y, first if stepper.tableau.implicit else None))
        steps.append(step)
        outputs.add(stepper, step, t, h, before, new, stages, accepted)
        if keep is not None:
            done = keep.see(Taken(len(steps) - 1, step, stepper, t, h, before, stages, accepted))
            if len(done):
                plan.stop(done)
        last = _first_of_next(stepper, stages)
        y, first = _put(y, new, rows, accepted), None if last is None else _put(first, last, rows, accepted)
    values, missing = outputs.finish(y)
    dense = None if keep is None else keep.finish()
    trajectory = Trajectory(values, steps, outputs.points, missing, kept.states, y, dense)
    return trajectory if plan.needs_error else _watched(trajectory)


def _watched(found: Trajectory) -> Trajectory:
    """Of fixed steps, with what they did not reach, found from the values, on their device."""
    finite = found.values.detach().isfinite().all(dim=2)
    reached = finite.long().cumprod(dim=0).sum(dim=0)
    missing = torch.arange(len(finite), device=finite.device).unsqueeze(1) >= reached
    return dataclasses.replace(found, reached=reached, missing=found.missing if found.kept is not None else missing)


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
    """Estimated error over tolerance of the systems `rows`, as the norm has it; of each row, if `each` asks for it."""
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


class _Outputs:
    """Collects the states at the output times."""

    def __init__(self, times: Times, y: Tensor) -> None:
        self.times, self.systems = times, len(y)
        self.points: list[list[Points]] = []
        self._next = torch.ones(self.systems, dtype=torch.long)  # the output time that each system comes to next
        self._left: dict[int, tuple[int, Tensor]] = {}  # of systems that left: what they came to, and their last state
        self._found = [torch.arange(self.systems)]  # index * systems + system
        self._values = [y]

    def add(
        self,
        stepper: Stepper,
        step: Step,
        t: Tensor,
        h: Length,
        before: Tensor,
        new: Tensor,
        stages: Stages,
        accepted: Tensor | None,
    ) -> None:
        """Those within a step; `accepted` are the rows of `before`, `new` and `stages` that took it (None: all)."""
        self.points.append(self._within(step))
        for points in self.points[-1]:
            position, systems = points.position, self._systems_of(step)
            if position is None:
                self._found.append((points.index.unsqueeze(1) * self.systems + systems).reshape(-1))
            else:
                self._found.append(points.index * self.systems + systems[position])
                position = position.to(new.device)
                position = position if accepted is None else accepted[position]
            if points.end:
                self._values.append(new if position is None else new[position])
                continue
            if len(stepper.tableau.a) > stepper.tableau.stages:
                stepper.extend(stages, t, h, before)
            theta = self.times.theta(step, points.index, points.position)
            self._values.append(interpolate(stepper, stages, h, before, theta, position).flatten(0, -2))

    def inside(self, step: Step, near: Sequence[float]) -> Tensor | None:
        """Fractions of a step with output times, the nearest to the given ones, (near, rows), or (near, 1) for all.

        Where there are fewer, some are the given ones. NaN where there is none; None where there is none in any row.
        """
        with temporarily_clear_interpreter_stack():
            begin, size = (torch.as_tensor(x, dtype=torch.float64).reshape(-1, 1) for x in self.times.on_host(step))
            theta = (self.times.table[int(self._next.min()) : len(self.times)] - begin) / size
            theta = torch.where((theta > _ROUNDING) & (theta < 1 - _ROUNDING), theta, torch.nan)
            if theta.isnan().all():
                return None
            found: list[Tensor] = []
            for fraction in near:
                place = (theta - fraction).abs().nan_to_num(torch.inf).argmin(dim=1, keepdim=True)
                nearest = theta.gather(1, place).squeeze(1)
                for other in found:
                    nearest = torch.where(nearest == other, fraction, nearest)
                found.append(nearest)
            return torch.stack(found)

    def leave(self, systems: Tensor, y: Tensor) -> None:
        """Systems that failed where they share their steps, at the state y."""
        for system in systems.tolist():
            self._left.setdefault(system, (int(self._next[system]), y[system].detach()))

    def finish(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """The states, (times, systems, unknowns), and which are missing: those are the last ones of their systems."""
        result, missing = self._in_order(last)
        if self._left:
            end = last.index_copy(0, *self._of_those_who_left(last.device))
            for system, (reached, _) in self._left.items():
                missing[reached:, system] = True
            result = torch.where(missing.unsqueeze(2).to(last.device), end, result)
        return result, missing

    def _of_those_who_left(self, device: torch.device) -> tuple[Tensor, Tensor]:
        systems = torch.tensor(list(self._left), device=device)
        return systems, torch.stack([state for _, state in self._left.values()])

    def _in_order(self, last: Tensor) -> tuple[Tensor, Tensor]:
        missing = torch.arange(len(self.times)).unsqueeze(1) >= self._next
        index, system = missing.nonzero(as_tuple=True)
        found = torch.cat([*self._found, index * self.systems + system])
        values = [*self._values, last[system.to(last.device)]] if len(index) else self._values
        result = torch.cat(values) if len(values) > 1 else values[0]
        order = found.argsort()
        if bool((order.diff() < 0).any()):
            result = result[order.to(result.device)]
        return result.view(len(self.times), self.systems, last.shape[1]), missing

    def _systems_of(self, step: Step) -> Tensor:
        return torch.arange(self.systems) if step.rows is None else step.rows

    def _within(self, step: Step) -> list[Points]:
        """The output times in (start, start + size], those at the end apart."""
        if isinstance(step.start, Tensor):
            return self._within_each(step)
        times, (a, b) = self.times, step.segment()
        begin, size = times.on_host(step)
        forward, systems = times.points[b] > times.points[a], self._systems_of(step)
        start = upto = int(self._next[systems[0]]) if len(systems) else 1
        ended = step.last and b < len(times)  # at an output time
        if ended:
            upto = b + 1
        while upto < len(times) and (
            (times.host[upto] <= begin + size) if forward else (times.host[upto] >= begin + size)
        ):
            upto += 1
        self._next[systems] = upto
        inside = upto - ended
        points = [Points(torch.arange(start, inside), None, end=False)] if inside > start else []
        return [*points, Points(torch.arange(inside, upto), None, end=True)] if upto > inside else points

    def _within_each(self, step: Step) -> list[Points]:
        times, rows = self.times, self._systems_of(step)
        begin, size = times.on_host(step)
        outputs, start = times.table[: len(times)], self._next[rows]
        forward = -1.0 if outputs[-1] < outputs[0] else 1.0
        upto = torch.searchsorted(forward * outputs, forward * (begin + size), right=True)
        ended = step.last & (torch.as_tensor(step.b) == len(times) - 1)
        upto = torch.maximum(torch.where(ended, len(times), upto), start)
        ended &= upto > start
        self._next[rows] = upto
        inside = (upto - ended.long() - start).clamp(min=0)
        position = torch.arange(len(rows)).repeat_interleave(inside)
        offset = torch.arange(len(position)) - (inside.cumsum(0) - inside)[position]
        points = [Points(start[position] + offset, position, end=False)] if len(position) else []
        position = ended.nonzero().squeeze(1)
        return [*points, Points(upto[position] - 1, position, end=True)] if len(position) else points


def interpolate(
    stepper: Stepper, stages: Stages, h: Length, before: Tensor, theta: Tensor, position: Tensor | None
) -> Tensor:
    """Dense output: y at fractions theta (points,) of a step, of its rows `position`: (points, unknowns).

    With None of all rows, (points, rows, unknowns).
    """
    weights = dense_weights(coefficients(stepper.tableau, before), theta)
    k = stages.rows(weights.shape[1])
    if position is None:
        return before + h * torch.einsum("ps,srd->prd", weights, k)
    length = h if isinstance(h, float) else h[position]
    return before[position] + length * torch.einsum("ps,spd->pd", weights, k[:, position])
