"""The continuous adjoint: another differential equation, solved backwards in time, with the state solved along."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..modes import eager, full_precision, needs_derivative
from ..private_api import is_grads_batched, next_node_number
from ..pytree import Tensors
from ..solution import Status
from .complex_states import as_complex, as_real
from .controllers import StepController, equal_steps
from .discrete import derivative_of_the_steps
from .integrate import integrate
from .replay import OtherTensorsError, check_replay, check_tape, difference
from .solvers import Adaptive, FixedStep, is_splitting, jumps_of
from .step_control import SharedController
from .steps import Stepper
from .times import Times
from .trajectory import Trajectory


class BacksolveAdjoint(torch.autograd.Function):
    """(y, t, inputs) -> states at the output times; the solve itself is done: `trajectory` is what it left behind."""

    @staticmethod
    def forward(ctx: Any, solve: Any, trajectory: Trajectory, y: Tensor, t: Tensor, *inputs: Tensor) -> Tensors:
        """The outputs of the solve."""
        if solve.solver.tableau.implicit:
            raise ValueError("Backsolve() does not go with an implicit solver: use adjoint=Discrete()")
        if is_splitting(solve.solver):
            name = type(solve.solver).__name__
            raise ValueError(f"Backsolve() does not go with {name}: use adjoint=Reversible(), which is exact")
        ctx.solve, ctx.trajectory = solve, trajectory.without_values()
        ctx.save_for_backward(y, t, trajectory.values, *inputs)
        return trajectory.outputs

    @staticmethod
    @eager
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        """dL/d(y, t, inputs) from dL/dvalues."""
        y, t, values, *inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if is_grads_batched(g):
            raise RuntimeError("is_grads_batched=True does not work with Backsolve(): use adjoint=Discrete()")
        with full_precision(y.device.type):
            if needs_derivative():  # the backward solve is not differentiated again
                return (None, None, *derivative_of_the_steps(ctx, y, t, tuple(inputs), (g,), wanted))
            with torch.no_grad():
                return (None, None, *_backwards(ctx.solve, values, t, tuple(inputs), g, wanted))


def _backwards(
    solve: Any, values: Tensor, t: Tensor, inputs: Tensors, g: Tensor, wanted: Any
) -> tuple[Tensor | None, ...]:
    t = t.to(values.device)
    solve.field.bind(solve.time(t), values[0], inputs)
    augmented = _Augmented(solve.field, inputs, wanted[2:], values[0])
    check_replay(difference(augmented.plain(t[-1], values[-1]), solve.slope, solve.slope), solve.field, solve.solver)
    unreached = [False] * len(t)
    if solve.missing is not None:
        unreached = solve.missing.all(dim=1).tolist()
        resting = solve.missing | ~values.isfinite().all(dim=2)
        values = _with_stand_ins(values, resting)
    solver, adjoint = solve.solver, solve.adjoint
    if isinstance(solver, Adaptive):
        own = {name: augmented.tolerance(x) for name, x in (("rtol", solver.rtol), ("atol", solver.atol))}
        own |= {name: x for name in own if (x := getattr(adjoint, name)) is not None}
        start = None if solver.first_step != "span" else solver.first_step
        solver = dataclasses.replace(solver, **own, first_step=start)
    stepper = Stepper(solver, augmented, taped=False)
    u, sums = torch.zeros_like(values[0]), values.new_zeros(augmented.extra)
    of_times, length = torch.zeros_like(t), None
    status = Status.CONVERGED
    for i in range(len(t) - 1, 0, -1):
        if unreached[i]:
            continue
        if solve.missing is not None:
            augmented.resting = resting[i].unsqueeze(1)
        u = u + g[i]
        of_times[i] += (g[i] * augmented.plain(t[i], values[i])).sum().to(t.dtype) if wanted[1] else 0.0
        state = torch.cat([values[i].reshape(-1), u.reshape(-1), sums]).unsqueeze(0)
        times = Times(t[[i, i - 1]].detach(), state, jumps_of(solver), solve.field.time_dtype)
        if isinstance(solver, FixedStep):
            controller: StepController = equal_steps(solver, times.host, times.eps)
        else:
            controller = SharedController(solver, times.host, length)
        controlled = 2 * u.numel() if adjoint.seminorm else None
        _, u, sums = augmented.split(integrate(stepper, state, times, controller, controlled=controlled).values[-1])
        length, status = getattr(controller, "length", None), Status(controller.report()[0])
        if status != Status.CONVERGED:
            u, sums = torch.full_like(u, torch.nan), torch.full_like(sums, torch.nan)
            break
    if wanted[1]:
        of_times[0] -= (u * augmented.plain(t[0], values[0])).sum().to(t.dtype)
    solve.report(stepper.calls, status)
    grads = iter(augmented.gradients(sums))
    return (u + g[0], of_times if wanted[1] else None, *[next(grads) if needed else None for needed in wanted[2:]])


def _with_stand_ins(values: Tensor, resting: Tensor) -> Tensor:
    """States (times, systems, unknowns), where those of resting systems, whose u is zero, are those of another."""
    if not resting.shape[1]:
        return values
    other = (~resting).long().argmax(dim=1)
    return torch.where(resting.unsqueeze(2), values[torch.arange(len(values)), other].unsqueeze(1), values)


class _Augmented:
    """d(y, u, sums)/dt = (f, -(df/dy)^T u, -(df/dinputs)^T u), on one row.

    Attributes:
        resting: systems whose y is held, (systems, 1): those that the solve has lost by then; None: no one.
    """

    def __init__(self, field: Any, inputs: Tensors, wanted: Any, like: Tensor) -> None:
        own = tuple(x.detach().requires_grad_(needed) for x, needed in zip(inputs, wanted, strict=True))
        self.sources = [x for x, needed in zip(own, wanted, strict=True) if needed]
        self.extra = sum(as_real(x).numel() for x in self.sources)
        self.resting: Tensor | None = None
        self.user, self.known, self.checked = field, {id(x) for x in own}, False
        self.field, self.shape, self.count = field.of(own), like.shape, like.numel()
        self.time_dtype, self.each_time = field.time_dtype, field.each_time

    def plain(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y)."""
        return self.field(self._time(t.detach().to(self.time_dtype)), y, None)

    def __call__(self, t: Tensor, state: Tensor, rows: Tensor | None) -> Tensor:
        """The derivative of the whole."""
        y, u, _ = self.split(state)
        since = next_node_number()
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            value = self.field(self._time(t), y, None)
        if not self.checked:
            try:
                check_tape(value, since, self.known, (y,), self._time(t), y)
            except OtherTensorsError:
                # Raises, unless f has made that tensor itself.
                self.user.check_complete(self._time(t), y, None, bind=False)
                self.checked = True
        if not value.requires_grad:
            return torch.cat([value.reshape(-1), state.new_zeros(self.count + self.extra)]).unsqueeze(0)
        grads = torch.autograd.grad(value, [y, *self.sources], u, materialize_grads=True)
        value = value.detach() if self.resting is None else torch.where(self.resting, 0.0, value.detach())
        parts = [value.reshape(-1), *(-as_real(x).reshape(-1).to(value.dtype) for x in grads)]
        return torch.cat(parts).unsqueeze(0)

    def split(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y, u, sums."""
        y, u, sums = state.reshape(-1).split([self.count, self.count, self.extra])
        return y.view(self.shape), u.view(self.shape), sums

    def tolerance(self, given: Any) -> Any:
        """Of y, as that of the whole: of u the same, component by component, of the sums the least."""
        if not isinstance(given, Tensor):
            return given
        of_y = given.expand(self.shape).reshape(-1)
        least = of_y.amin() if self.count else given.new_zeros(())
        return torch.cat([of_y, of_y, least.expand(self.extra)]).unsqueeze(0)

    def gradients(self, sums: Tensor) -> list[Tensor]:
        """The sums, in the shapes of the inputs."""
        parts = sums.split([as_real(x).numel() for x in self.sources]) if self.sources else []
        both = zip(parts, self.sources, strict=True)
        return [(as_complex(p.view(*x.shape, 2)) if x.is_complex() else p.view(x.shape)).to(x.dtype) for p, x in both]

    def _time(self, t: Tensor) -> Tensor:
        return t.expand(self.shape[0]) if self.each_time else t
