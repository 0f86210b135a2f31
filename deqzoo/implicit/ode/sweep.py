"""One pass backwards over the steps of a solve: the discrete adjoint, stage by stage; see `discrete`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..operator import from_pullback
from ..private_api import add_in_place, next_node_number
from ..pytree import Tensors
from ..sending import send
from ..solution import Status
from .controllers import Step
from .field import UserField
from .outputs import interpolate
from .replay import OtherTensorsError, check_tape, difference
from .solvers import DiagonallyImplicit, ODESolver, Rodas5P, is_splitting, jumps_of
from .stage_values import Buffer, Coefficients, Length, coefficients, dense_weights
from .stages import linear_solver
from .steps import Stepper
from .times import Times
from .trajectory import Points, State, Trajectory


class _StepBack(NamedTuple):
    """What is needed to go back through one step.

    Attributes:
        step, points: the step and the output times within it.
        y: the state before it, (rows, unknowns).
        first: f there, where it is known.
        u: dL/dy after it, likewise.
        g: dL/dvalues, (times, systems, unknowns).
        rows: the systems that took it; None: all.
        dense: dL/dy and dL/dk, (stages, rows, unknowns), of its dense output, where that was kept.
        after: the state after it, where that is known and to be compared.
    """

    step: Step
    points: list[Points]
    y: Tensor
    first: Tensor | None
    u: Tensor
    g: Tensor
    rows: Tensor | None
    dense: tuple[Tensor, Tensor] | None
    after: Tensor | None


_Tape = tuple[Tensor, Tensor]  # (Y_i, k_i) of a stage, of which k_i is on the tape


class Sweep:
    """One pass backwards over all steps of a solve.

    Args:
        solver: the method of the solve.
        field: its field.
        t: output times.
        trajectory: what the solve left behind.
        limit: states to keep at once, on each level of recomputation.
        inputs: the tensors that the field reads.
        wanted: whether (y, t, *inputs) need a gradient.
        like: a state.
        bound: the tensors that f holds have been looked at; then it may leave some out, at some times.
    """

    def __init__(
        self,
        solver: ODESolver,
        field: UserField,
        t: Tensor,
        trajectory: Trajectory,
        limit: int,
        inputs: Tensors,
        wanted: Sequence[bool],
        like: Tensor,
        bound: bool,
    ) -> None:
        self.tableau, self.trajectory, self.limit = solver.tableau, trajectory, max(limit, 2)
        self.wanted, self.t = wanted, t.detach()
        self.jumps, self.time_dtype = jumps_of(solver), field.time_dtype
        self.times = Times(self.t, like, self.jumps, self.time_dtype)
        # Leaves of our own: a captured tensor that depends on an argument must not carry its gradient on to it in here.
        count = len(field.args)
        own = [x if i >= count and x.grad_fn is None else x.detach() for i, x in enumerate(inputs)]
        if any(x.grad_fn is not None for x in inputs[count:]):
            own = [x.detach() for x in inputs]
        for x, needed in zip(own, wanted[2:], strict=True):
            x.requires_grad_(x.requires_grad or needed)
        self.sources = [x for x, needed in zip(own, wanted[2:], strict=True) if needed]
        self.sums: list[Tensor | None] = [None] * len(self.sources)
        self.of_times = torch.zeros_like(self.t)
        self.plain = Stepper(solver, field.of(tuple(own)), taped=False)
        self.plain.replays = True
        self.taped = Stepper(solver, field.of(tuple(own)), taped=True)
        self.by_stages = not (wanted[1] or isinstance(solver, Rodas5P) or is_splitting(solver))
        self.bound, self.known = bound, {id(x) for x in own}
        # Of the sources, those that every tape of f should hold.
        read = range(count, field.found) if not bound else ()
        chosen = [i for i, needed in enumerate(wanted[2:]) if needed]
        self.expected = [place for place, i in enumerate(chosen) if i in read]
        self.difference = like.new_zeros(())  # the worst one of a state that is computed again
        self.status = Status.CONVERGED
        self._other: Tensor | None = None  # which rows of the step that is taken back are not compared, (rows, 1)

    @property
    def calls(self) -> int:
        """Evaluations of f."""
        return self.plain.calls + self.taped.calls

    @property
    def grads(self) -> tuple[Tensor | None, ...]:
        """dL/dt and dL/dinputs, None where they are not wanted, or where f does not depend on the input."""
        found = iter(self.sums)
        rest = [next(found) if needed else None for needed in self.wanted[2:]]
        return (self.of_times if self.wanted[1] else None, *rest)

    def run(self, g: Tensor, *of_kept: Tensor) -> Tensor:
        """dL/dy at the first time, from dL/dvalues, (times, systems, unknowns), and those of the dense output kept."""
        trajectory = self.trajectory
        after = trajectory.last
        self.of_kept = {} if trajectory.kept is None else trajectory.kept.split(*of_kept)
        u = torch.zeros_like(g[0])  # of the end; the gradient in what was not reached is zero
        end = len(trajectory.steps)
        for begin in sorted(trajectory.checkpoints, reverse=True):
            u = self._pull_back(begin, end, trajectory.checkpoints[begin], u, g, after)
            end, after = begin, trajectory.checkpoints[begin][0]
        return u + g[0]

    def _pull_back(self, begin: int, end: int, state: State, u: Tensor, g: Tensor, after: Tensor | None) -> Tensor:
        """Through the steps from number `begin` (where the state is y) to `end`; recomputes the states between.

        `after` is the state at the end, where it is to be compared with what comes out now.
        """
        if end - begin == 1:
            return self._pull_step(begin, state, u, g, after)
        stride = -(-(end - begin) // self.limit)
        states = {begin: state}
        for number in range(begin, begin + (end - begin - 1) // stride * stride):
            state = self._advance(self.trajectory.steps[number], *state)
            if (number + 1 - begin) % stride == 0:
                states[number + 1] = state
        for number in sorted(states, reverse=True):
            upto = min(number + stride, end)
            u = self._pull_back(number, upto, states.pop(number), u, g, after if upto == end else None)
        return u

    def _advance(self, step: Step, y: Tensor, first: Tensor | None) -> State:
        """A step taken again: the state after it, and f there, where the method has it."""
        rows = None if step.rows is None else send(step.rows, y.device)
        t, h = self.times.step(step)
        self.plain.limits = self.times.limits(step)
        before, known = self._of_rows(step, y, first, rows)
        new, stages = self.plain.step(t, h, before, known, rows)
        last = stages.get(self.tableau.stages - 1) if self.tableau.last_is_next else None
        if rows is None:
            return new, last
        return y.index_copy(0, rows, new), None if first is None or last is None else first.index_copy(0, rows, last)

    def _of_rows(self, step: Step, y: Tensor, first: Tensor | None, rows: Tensor | None) -> State:
        """The state of the systems that take a step, and f there where it is known."""
        y, first = step.replace_failed(y), None if first is None else step.replace_failed(first)
        if self.times.from_jump(step):
            first = None
        return (y, first) if rows is None else (y[rows], None if first is None else first[rows])

    def _pull_step(self, number: int, state: State, u: Tensor, g: Tensor, after: Tensor | None) -> Tensor:
        """dL/dy before a step, from u = dL/dy after it, the outputs within it included."""
        step, points = self.trajectory.steps[number], self.trajectory.points[number]
        rows = None if step.rows is None else send(step.rows, u.device)
        before = self._of_rows(step, *state, rows)
        dense = _whole(self.of_kept.pop(number, None), len(before[0]))
        if after is not None:
            self._other = self._of_others(after, rows)
            after = after if rows is None else after[rows]
        pull = self._by_stages if self.by_stages else self._by_tape
        if rows is None:
            return pull(_StepBack(step, points, *before, u, g, None, dense, after))
        return u.index_copy(0, rows, pull(_StepBack(step, points, *before, u[rows], g, rows, dense, after)))

    def _of_others(self, after: Tensor, rows: Tensor | None) -> Tensor | None:
        """The rows of a step that failed or are going to, whose states do not matter, (rows, 1)."""
        other = self.trajectory.others(len(after), after.device)
        return other if rows is None or other is None else other[rows]

    def _compare(self, again: Tensor, after: Tensor | None, y: Tensor) -> None:
        if after is not None:
            found = difference(again.detach(), after, y.detach(), self._other)
            self.difference = torch.fmax(self.difference, found)

    def _cotangent(self, points: Points, g: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """dL/dvalues of outputs, (points, unknowns), and the rows of the step that they are of."""
        index = send(points.index, g.device)
        if points.position is None:
            return g[index] if rows is None else g[index][:, rows], None
        position = send(points.position, g.device)
        return g[index, position if rows is None else rows[position]], position

    def _by_stages(self, at: _StepBack) -> Tensor:
        """dL/dy by the adjoints of the stages, see `discrete`."""
        co = coefficients(self.tableau, at.y)
        t, h = self.times.step(at.step)
        self.plain.limits = self.taped.limits = self.times.limits(at.step)
        inside = [p for p in at.points if not p.end]
        u = self._with_outputs_at_end(at)
        count = self._stages_read(co, interpolated=bool(inside) or at.dense is not None)
        tapes, new = self._tape_stages(count, t, h, at.y, at.first, at.rows, co)
        self._compare(new, at.after, at.y)
        extra = _sum(self._through_interpolation(inside, at.step, h, at.g, at.rows, co, u), at.dense)
        return self._through_stages(tapes, h, co, u, extra)

    def _with_outputs_at_end(self, at: _StepBack) -> Tensor:
        """dL/dy after the step, the outputs there included."""
        u = at.u
        for p in at.points:
            if p.end:
                of_value, position = self._cotangent(p, at.g, at.rows)
                u = u + of_value.sum(dim=0) if position is None else u.index_add(0, position, of_value)
        return u

    def _stages_read(self, co: Coefficients, interpolated: bool) -> int:
        """How many stages the state after the step, and the dense output where it is `interpolated`, are made of."""
        tableau = self.tableau
        if interpolated:
            return len(tableau.a)
        # The last stage of some methods is the first of the next step alone.
        idle = tableau.last_is_next and not co.b_list[tableau.stages - 1]
        return tableau.stages - idle

    def _through_stages(
        self, tapes: list[_Tape], h: Length, co: Coefficients, u: Tensor, extra: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """dL/dy from u = dL/dy_new and from what else (dL/dy, dL/dk) there is, stage by stage from the last one."""
        count = len(tapes)
        mu = Buffer(count, u)
        for i in reversed(range(count)):
            # The adjoint of k_i: h (b_i u + sum_j a_ji mu_j)
            v = mu.back(i, co.columns[i][: count - 1 - i], u, co.b_list[i])
            v = v * h if extra is None else v * h + extra[1][i]
            mu.put(i, self._pull_stage(tapes.pop(), v, self.tableau.diagonal(i) * h))
        return mu.total(u if extra is None else u + extra[0])

    def _tape_stages(
        self, count: int, t: Tensor, h: Length, y: Tensor, first: Tensor | None, rows: Tensor | None, co: Coefficients
    ) -> tuple[list[_Tape], Tensor]:
        """The stages, each with a tape of its own, and the state after the step."""
        values, tapes = Buffer(count, y), []
        length = h if isinstance(h, float) else h.reshape(t.shape)
        solved = self.plain.step(t, h, y, first, rows)[1] if self.tableau.implicit else None
        for i in range(count):
            at = (values.advance(y, h, co.a[i]) if i else y).detach()
            if solved is not None and (diagonal := self.tableau.diagonal(i)):
                at = at + diagonal * h * solved.get(i)
            at.requires_grad_()
            since, time = next_node_number(), t + self.tableau.c[i] * length
            with torch.enable_grad():
                k = self.taped.evaluate(time, at, rows)
            if not self.bound:
                check_tape(k, since, self.known, (at,), time, at, rows)
            values.put(i, k.detach() if solved is None else solved.get(i))
            tapes.append((at, k))
        return tapes, values.advance(y, h, co.b[:count])

    def _through_interpolation(
        self, inside: list[Points], step: Step, h: Length, g: Tensor, rows: Tensor | None, co: Coefficients, u: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """What the outputs inside a step add to dL/dy, and to dL/dk_i, (stages, rows, unknowns)."""
        if not inside:
            return None
        (points,) = inside
        of_value, position = self._cotangent(points, g, rows)
        weights = dense_weights(co, self.times.theta(step, points.index, points.position))
        if position is None:
            return of_value.sum(dim=0), torch.einsum("ps,prd->srd", weights * h, of_value)
        each = (weights * (h if isinstance(h, float) else h[position])).T.unsqueeze(2) * of_value
        shape = (weights.shape[1], *u.shape)
        return torch.zeros_like(u).index_add(0, position, of_value), u.new_zeros(shape).index_add(1, position, each)

    def _pull_stage(self, tape: _Tape, v: Tensor, gh: Length) -> Tensor:
        """mu = (df/dy)^T w for w = v + gh mu, the adjoint of k_i; adds (df/dinputs)^T w to the sums."""
        at, k = tape
        if not k.requires_grad:
            return torch.zeros_like(at)
        implicit = isinstance(gh, Tensor) or gh != 0
        if implicit and self.tableau.implicit:

            def transposed(w: Tensor) -> Tensor:
                return w - gh * torch.autograd.grad(k, at, w, retain_graph=True, materialize_grads=True)[0]

            # w - gh (df/dy)^T w = v, solved by the core
            assert isinstance(self.plain.solver, DiagonallyImplicit)
            solution = linear_solver(self.plain.solver, at)(from_pullback(transposed, at).T, v)
            self.plain.calls += solution.nfe
            v = solution.value
        grads = torch.autograd.grad(k, [at, *self.sources], v, allow_unused=True)
        self._add(grads[1:])
        self._check_read(grads[1:])
        return torch.zeros_like(at) if grads[0] is None else grads[0]

    def _by_tape(self, at: _StepBack) -> Tensor:
        """dL/dy by the tape of the step, taken once more."""
        step, points, rows = at.step, at.points, at.rows
        with torch.enable_grad():
            y, times = at.y.detach().requires_grad_(), self.t.clone().requires_grad_(self.wanted[1])
            moving, since = Times(times, y, self.jumps, self.time_dtype), next_node_number()
            t, h = moving.step(step)
            self.taped.limits = moving.limits(step)
            first = at.first
            if first is not None:  # the value that the step had, with the derivative of f
                at_begin = self.taped.evaluate(t, y, rows)
                first = first + (at_begin - at_begin.detach())
            new, stages = self.taped.step(t, h, y, first, rows)
            self._compare(new, at.after, y)
            if not (self.bound or self.tableau.implicit):  # implicit stages have leaves of their own
                check_tape(new, since, self.known, (y, times), t, y, rows)
            values, weights = [new], [at.u]
            if any(not p.end for p in points) or at.dense is not None:
                self.taped.extend(stages, t, h, y)
            if at.dense is not None:
                values += [y, stages.rows(len(self.tableau.dense))]
                weights += at.dense
            for p in points:
                of_value, position = self._cotangent(p, at.g, rows)
                if not p.end:
                    theta = moving.theta(step, p.index, p.position)
                    values.append(interpolate(self.taped, stages, h, y, theta, position))
                else:
                    values.append(new.expand_as(of_value) if position is None else new[position])
                weights.append(of_value)
            sources = [y, *([times] if self.wanted[1] else []), *self.sources]
            recorded = [i for i, value in enumerate(values) if value.requires_grad]
            values, weights = ([each[i] for i in recorded] for each in (values, weights))
            of_y, *rest = torch.autograd.grad(values, sources, weights, allow_unused=True)
        if self.wanted[1] and (of_times := rest.pop(0)) is not None:
            self.of_times += of_times
        self._add(rest)
        self._check_read(rest)
        return torch.zeros_like(y) if of_y is None else of_y

    def _check_read(self, grads: Sequence[Tensor | None]) -> None:
        if [place for place in self.expected if grads[place] is None]:
            raise OtherTensorsError(None)

    def _add(self, grads: Sequence[Tensor | None]) -> None:
        known = []
        for i, grad in enumerate(grads):
            if grad is not None and self.sums[i] is None:
                self.sums[i] = grad.clone()  # ours alone, so that it may be added to in place
            elif grad is not None:
                known.append((self.sums[i], grad))
        if known:
            add_in_place(*zip(*known, strict=True))


def _sum(a: tuple[Tensor, Tensor] | None, b: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor] | None:
    if a is None or b is None:
        return b if a is None else a
    return a[0] + b[0], a[1] + b[1]


def _whole(dense: tuple[Tensor | None, Tensor, Tensor] | None, count: int) -> tuple[Tensor, Tensor] | None:
    """Gradients of some rows of a step, as those of all its rows."""
    if dense is None:
        return None
    rows, of_y, of_stages = dense
    if rows is None:
        return of_y, of_stages
    rows, (stages, _, unknowns) = send(rows, of_y.device), of_stages.shape
    whole = of_stages.new_zeros(stages, count, unknowns)
    return of_y.new_zeros(count, unknowns).index_copy(0, rows, of_y), whole.index_copy(1, rows, of_stages)
