"""The discrete adjoint: the exact derivative of the computed solution, the accepted steps taken for constants.

A step is y_new = y + h sum_i b_i k_i with k_i = f(t + c_i h, Y_i), Y_i = y + h sum_j a_ij k_j. With the adjoint u of
y_new (dL/dy_new), that of the stages and of y follows backwards through the stages:

    mu_i = (df/dy)^T h (b_i u + sum_(j > i) a_ji mu_j)  at Y_i,        dL/dy = u + sum_i mu_i

and the same products give dL/dinputs. Only states before some steps are kept; the others are computed anew, and the
stages always. Where stage i is implicit, Y_i contains a_ii k_i too, and (I - a_ii h (df/dy)^T) stands before
the bracket's adjoint: a linear system for the core's solvers. A gradient with respect to the output times takes the
step on the tape instead.

Source: Hager, "Runge-Kutta methods in optimal control and the transformed adjoint system", 2000.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..grads_batched import each_alone
from ..modes import eager, full_precision, in_transform, needs_derivative
from ..private_api import is_grads_batched
from ..pytree import Tensors
from .controllers import RecordedSteps
from .integrate import integrate
from .interpolants import Again
from .relevant import relevant
from .replay import OtherTensorsError, check_replay, check_replay_later, difference, raise_late
from .solvers import jumps_of
from .steps import Stepper
from .sweep import Sweep
from .times import Times
from .trajectory import Trajectory


class DiscreteAdjoint(torch.autograd.Function):
    """(y, t, inputs) -> states at the output times, and `Kept.before`, `Kept.stages`, where dense output is kept.

    The solve itself is done: `trajectory` is what it left behind.
    """

    @staticmethod
    def forward(ctx: Any, solve: Any, trajectory: Trajectory, y: Tensor, t: Tensor, *inputs: Tensor) -> Tensors:
        """The outputs of the solve."""
        ctx.solve, ctx.trajectory = solve, trajectory.without_values()
        ctx.save_for_backward(y, t, *inputs)
        return trajectory.outputs

    @staticmethod
    @eager
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        """dL/d(y, t, inputs) from dL/dvalues, and those of the dense output."""
        y, t, *inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        if any(map(is_grads_batched, g)):
            if needs_derivative():
                raise RuntimeError(
                    "is_grads_batched=True together with create_graph=True does not work through odeint; use "
                    "torch.func.vmap or torch.func.jacrev, which do"
                )
            present = [i for i, needed in enumerate(wanted) if needed]
            like = tuple((y, t, *inputs)[i] for i in present)

            def one(g: Tensors) -> Tensors:
                grads = _first_order(ctx, y, t, tuple(inputs), g, wanted)
                pairs = [(grads[i], x) for i, x in zip(present, like, strict=True)]
                return tuple(torch.zeros_like(x) if grad is None else grad for grad, x in pairs)

            found = dict(zip(present, each_alone(one, g, like), strict=True))
            return (None, None, *[found.get(i) for i in range(len(wanted))])
        with full_precision(y.device.type):
            if needs_derivative():
                return (None, None, *derivative_of_the_steps(ctx, y, t, tuple(inputs), g, wanted))
            return (None, None, *_first_order(ctx, y, t, tuple(inputs), g, wanted))


def _first_order(
    ctx: Any, y: Tensor, t: Tensor, inputs: Tensors, g: Tensors, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    raise_late()
    solve = ctx.solve
    field, limit = solve.field, solve.adjoint.checkpoints
    trajectory = ctx.trajectory if solve.whole else relevant(ctx.trajectory)

    def swept(bound: bool) -> tuple[Sweep, Tensor]:
        sweep = solve.adjoint.sweep(solve.solver, field, t, trajectory, limit, inputs, wanted, y, bound)
        return sweep, sweep.run(*g)

    with torch.no_grad():
        try:
            sweep, u = swept(bound=False)
        except OtherTensorsError as error:
            if not field.bind(solve.time(t), y, inputs) and error.point is not None:
                field.check_complete(*error.point, bind=False)  # raises, unless f has made that tensor itself
            sweep, u = swept(bound=True)
    trust = check_replay_later(sweep.difference, field, solve.solver)
    solve.report(sweep.calls, sweep.status)
    grads = (u if wanted[0] else None, *sweep.grads)
    return grads if trust is None else tuple(None if grad is None else grad * trust for grad in grads)


def derivative_of_the_steps(
    ctx: Any, y: Tensor, t: Tensor, inputs: Tensors, g: Tensors, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """By the derivative of the same steps taken again, on the tape."""
    solve = ctx.solve
    solve.field.check_complete(solve.time(t), y.detach(), None, bind=True)
    # Fresh views: only paths through these arguments count, not those through others that depend on them.
    own = [x.view_as(x) if x.requires_grad else x for x in (y, t, *inputs)]
    stepper = Stepper(solve.solver, solve.field.of(tuple(own[2:])), taped=True)
    times = Times(own[1], own[0], jumps_of(solve.solver), solve.field.time_dtype)
    trajectory = ctx.trajectory if solve.whole else relevant(ctx.trajectory)
    keep = None if trajectory.kept is None else Again(trajectory.kept)
    again = integrate(stepper, own[0], times, RecordedSteps(trajectory.steps), keep=keep)
    if not in_transform():
        others = trajectory.others(len(y), y.device)
        worst = difference(again.last.detach(), trajectory.last, y.detach(), others)
        check_replay(worst, solve.field, solve.solver)
    outputs = again.outputs
    chosen = [x for x, needed in zip(own, wanted, strict=True) if needed]
    # In one tensor: stages of a field that reads none of the arguments are not on the tape.
    values, of_values = (torch.cat([x.reshape(-1) for x in each]) for each in (outputs, g))
    found = iter(torch.autograd.grad(values, chosen, of_values, create_graph=True, allow_unused=True))
    return tuple(next(found) if needed else None for needed in wanted)
