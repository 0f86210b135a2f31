"""The gradient of an implicit function: all implicit differentiation of the library, in one file.

A solver hands over y with F(y, x) = 0. Differentiating the condition gives A dy + dF = 0, where A = dF/dy at (y, x)
and dF is the change of F through everything but y. Hence

    forward mode    dy = -A^-1 dF                      one linear solve with A
    reverse mode    dL/dF = -A^-T dL/dy                one linear solve with A^T; the tape carries dL/dF on to x

`_Attach` is the autograd function whose value is y and whose derivative is this map. No iteration of the solver is on
the tape, so memory does not depend on their number. It reaches x in two ways:

- First order on the tape, the path of training. The residual F(y, x) is evaluated once with the tape on: there the
  dependence on x, on captured tensors and on module parameters is recorded without anybody listing them. The same
  tape gives the products u -> A^T u for the linear solve, and carries dL/dF on.
- Any order, forward mode, `torch.func`. The tensors that F reads are made explicit (`lifting`), and the derivative is
  itself differentiable: the adjoint u = -A^-T g is the solution of the condition A(y, x)^T u + g = 0, so the same
  `attach` makes it a function of y, g and x. Likewise for tangents. That recursion is all there is to higher orders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .condition_check import newton_distance, unsatisfied
from .grads_batched import each_alone
from .lifting import Lifted, apply_visibly, check_complete, lift, lift_closed, value_again
from .linear_solvers import LinearSolver
from .linear_solvers.base import default_tolerance, row_norm
from .modes import (
    eager,
    full_precision,
    host_flags,
    in_transform,
    needs_derivative,
    no_derivatives,
    unpack_tangent,
    unwrap_ended,
)
from .operator import LinearOperator, from_pullback, pullback, pullback_on_tape, reaches_leaf, transposed
from .private_api import forward_mode, is_grads_batched, saved_tensors_are_hooked
from .pytree import Ravel, Tensors
from .solution import OnFailure, Solution, Status

_FAR = 1e-3  # of the norm of y
_ROUNDING = 1e3  # eps, of the norm of y
Pullback = Callable[[Tensors], Tensors]
Condition = Callable[[Tensors, Tensors], Tensors]  # (leaves of y, other tensors) -> leaves of the residual


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """A condition F(y, inputs) = 0 and how to solve linear systems with its Jacobian A = dF/dy.

    `transposed` tells that A is the transpose of the Jacobian for which `preconditioner` was made.
    """

    condition: Condition
    linear_solver: LinearSolver
    batch_dims: int = 0
    tags: tuple[str, ...] = ()
    preconditioner: Callable[[Tensors], Tensors] | None = None
    transposed: bool = False
    on_failure: OnFailure = "warn"
    report: Callable[[Solution], None] | None = None
    tape: Pullback | None = None
    ravel: Ravel | None = None
    precision: torch.dtype | None = None  # in which F is evaluated
    jacobian: Callable[[], Tensor] | None = None  # writes dF/dy out, which the derived systems have, too

    def solve(self, y: Tensors, inputs: Tensors, b: Tensors, transpose: bool) -> Tensors:
        """A^-1 b, or A^-T b, at the frozen point (y, inputs); by the tape's products, where there is a tape."""
        if any(is_grads_batched(t) for t in b):
            return each_alone(lambda b: self.solve(y, inputs, b, transpose), b)
        ravel = self.ravel or Ravel(y[0] if len(y) == 1 else y, self.batch_dims)
        with no_derivatives():
            if self.tape is None:
                y, inputs = (tuple([t.detach() for t in tensors]) for tensors in (y, inputs))
            b = tuple([t.detach() for t in b])
            operator = self._operator(ravel, self._products(ravel, y, inputs), transpose)
            solution = self.linear_solver(operator, ravel.flatten_leaves(b))
        what = "adjoint solve" if transpose else "tangent solve"
        solution.check(self.on_failure, what, truncated=self.linear_solver.truncated)
        value = ravel.unflatten_leaves(solution.value)
        if self.report is not None and not in_transform():
            status, residual, steps = map(ravel.per_system, (solution.status, solution.residual, solution.steps))
            self.report(Solution(None, status, residual, steps, solution.nfe))
        return value

    def check_conditions(self, y: Tensors, residual: Tensors) -> None:
        """Warn or raise where F(y, inputs) is far from zero, inputs those that it reads itself; see `unsatisfied`."""
        ravel = self.ravel or Ravel(y[0] if len(y) == 1 else y, self.batch_dims)
        with no_derivatives(), full_precision(ravel.device.type):
            F, state = ravel.flatten_leaves([t.detach() for t in residual]), ravel.flatten_leaves(y)
            allowed = max(_FAR, default_tolerance(self.precision or ravel.dtype))
            found = unsatisfied(F, state, self._products(ravel, y, ()), allowed)
            if found is None:
                return
            status = torch.where(found[0], Status.STALLED, Status.CONVERGED)
        solution = Solution(None, ravel.per_system(status), ravel.per_system(found[1]), torch.zeros_like(status), 1)
        advice = "What `solve` returned does not meet the conditions, so derivatives by them are not those of `solve`"
        solution.check(self.on_failure, "conditions of an implicit function", advice=advice)

    def check_unchanged(self, y: Tensors, inputs: Tensors, before: Tensors, again: Tensors) -> None:
        """Raise if F(y, inputs), evaluated again in the backward, differs from the forward by more than rounding."""
        ravel = self.ravel or Ravel(y[0] if len(y) == 1 else y, self.batch_dims)
        y, inputs = (tuple([t.detach() for t in tensors]) for tensors in (y, inputs))
        with no_derivatives(), full_precision(ravel.device.type):
            change = tuple(b - a for a, b in zip(before, again, strict=True))
            if not host_flags(torch.stack([t.ne(0).any() for t in change]))[0][0]:
                return
            move = newton_distance(ravel.flatten_leaves(change), self._products(ravel, y, inputs))
            eps = torch.finfo(self.precision or ravel.dtype).eps
            allowed = _ROUNDING * eps * row_norm(ravel.flatten_leaves(y)) + (eps * sum(ravel.sizes)) ** 0.5
            changed = move > allowed
        if host_flags(changed)[0][0]:
            raise RuntimeError(
                "the condition has changed between the forward and the backward: with create_graph=True, and under "
                "hooks on saved tensors (as checkpointing has), it is evaluated again, so what it reads besides "
                "tensors (numbers, training mode, random numbers) must stay as it was until the backward has run"
            )

    def _products(self, ravel: Ravel, y: Tensors, inputs: Tensors) -> Callable[[Tensor], Tensor]:
        """u -> A^T u at (y, inputs), on matrices (systems, unknowns)."""
        vjp = self.tape or pullback(lambda leaves: self.condition(leaves, inputs), y)[1]
        return lambda u: ravel.flatten_leaves(vjp(ravel.unflatten_leaves(u)))

    def _operator(self, ravel: Ravel, rmv: Callable[[Tensor], Tensor], transpose: bool) -> LinearOperator:
        def precondition(v: Tensor) -> Tensor:
            assert self.preconditioner is not None
            return ravel.flatten_leaves(self.preconditioner(ravel.unflatten_leaves(v)))

        like = torch.zeros(ravel.systems, sum(ravel.sizes), dtype=ravel.dtype, device=ravel.device)
        operator = dataclasses.replace(from_pullback(rmv, like, self.tags), precision=self.precision)
        if self.preconditioner is not None and not in_transform():
            inverse = (lambda v: transposed(precondition, v)(v)) if self.transposed else precondition
            operator = dataclasses.replace(operator, preconditioner=inverse)
        if self.jacobian is not None and not in_transform():
            written = self.jacobian
            operator = dataclasses.replace(operator, matrix=(lambda: written().mT) if self.transposed else written)
        return operator.T if transpose else operator

    def adjoint(self) -> System:
        """The condition that defines the adjoint u: A(y, inputs)^T u + g = 0, with (*y, *g, *inputs) as its inputs."""

        def condition(u: Tensors, given: Tensors) -> Tensors:
            n = len(u)
            y, g, inputs = given[:n], given[n : 2 * n], given[2 * n :]
            _, vjp = pullback(lambda leaves: self.condition(leaves, inputs), y)
            return tuple(a + b for a, b in zip(vjp(u), g, strict=True))

        return self._derived(condition, transposed=not self.transposed)

    def tangent(self) -> System:
        """The condition that defines the tangent v: A(y, inputs) v + dF = 0, with (*y, *dF, *inputs) as its inputs."""

        def condition(v: Tensors, given: Tensors) -> Tensors:
            n = len(v)
            y, dF, inputs = given[:n], given[n : 2 * n], given[2 * n :]
            _, vjp = pullback(lambda leaves: self.condition(leaves, inputs), y)
            _, jvp = pullback(vjp, tuple(torch.zeros_like(t) for t in dF))
            return tuple(a + b for a, b in zip(jvp(v), dF, strict=True))

        return self._derived(condition, transposed=self.transposed)

    def _derived(self, condition: Condition, transposed: bool) -> System:
        return dataclasses.replace(self, condition=condition, transposed=transposed, report=None, tape=None)


def attach(system: System, y: Tensors, inputs: Tensors, residual: Tensors | None = None) -> Tensors:
    """y (detached) as a differentiable function of `inputs` and, on the tape, of all that F(y, inputs) is made of."""
    if in_transform():
        return apply_visibly(_AttachInTransform, system, len(y), 0, *y, *inputs)
    if residual is None:
        residual = system.condition(y, inputs)
    if not any(t.requires_grad for t in residual):
        return tuple(t.clone() for t in y)
    return apply_visibly(_Attach, system, len(y), len(y), *y, *residual, *inputs)


def pull_to_inputs(condition: Condition, y: Tensors, inputs: Tensors, which: Sequence[int]) -> Pullback:
    """The map u -> (dF/dinputs)^T u for the inputs of the given indices."""

    def of_inputs(chosen: Tensors) -> Tensors:
        merged = list(inputs)
        for i, t in zip(which, chosen, strict=True):
            merged[i] = t
        return condition(y, tuple(merged))

    return pullback(of_inputs, tuple(inputs[i] for i in which))[1]


class _Attach(torch.autograd.Function):
    """(y, residual, inputs) -> y.

    First order: dL/dresidual = -A^-T dL/dy =: u, and the tape of the residual carries u on, to whatever it was made of.
    Recorded (`create_graph`, `torch.func`): dL/dinputs = (dF/dinputs)^T u, taken at the output y, so that the
    derivative of this expression sees that y depends on the inputs; u comes from `attach` itself.
    """

    @staticmethod
    def forward(ctx: Any, system: System, n: int, m: int, *tensors: Tensor) -> Tensors:
        y = tuple(t.clone() for t in tensors[:n])
        ctx.system, ctx.n, ctx.m = system, n, m
        ctx.residual = tuple(t.detach() for t in tensors[n : n + m])
        ctx.dtypes = [t.dtype for t in ctx.residual]
        ctx.save_for_backward(*y, *tensors[n + m :])
        return y

    @staticmethod
    @eager
    def backward(ctx: Any, *g: Tensor) -> tuple[Any, ...]:
        system, n, m = ctx.system, ctx.n, ctx.m
        g = tuple([unwrap_ended(t) for t in g])
        minus_g = tuple([-t for t in g])
        saved = tuple([unwrap_ended(t) for t in ctx.saved_tensors])
        y, inputs = saved[:n], saved[n:]
        if m and not needs_derivative():
            if system.tape is None:
                system.check_unchanged(y, inputs, ctx.residual, value_again(system.condition, y, inputs))
            u = system.solve(y, inputs, minus_g, transpose=True)
            u = tuple([t.to(dtype) for t, dtype in zip(u, ctx.dtypes, strict=True)])
            return (None, None, None, *[None] * n, *u, *[None] * len(inputs))
        if any(is_grads_batched(t) for t in g):
            raise RuntimeError(
                "is_grads_batched=True together with create_graph=True does not work through an implicit function; "
                "use torch.func.vmap or torch.func.jacrev, which do"
            )
        again = check_complete(system.condition, y, inputs)
        if m and not in_transform():
            system.check_unchanged(y, inputs, ctx.residual, again)
        u = dataclasses.replace(system, tape=None).solve(y, inputs, minus_g, transpose=True)
        u = attach(system.adjoint(), u, (*y, *g, *inputs))
        wanted = [
            i
            for i, t in enumerate(inputs)
            if (t.is_floating_point() or t.is_complex()) and ctx.needs_input_grad[3 + n + m + i]
        ]
        grads: list[Tensor | None] = [None] * len(inputs)
        for i, grad in zip(wanted, pull_to_inputs(system.condition, y, inputs, wanted)(u), strict=True):
            grads[i] = grad
        return (None, None, None, *[None] * (n + m), *grads)


class _AttachInTransform(_Attach):
    """The same with forward mode and `vmap`. Apart, because `torch.compile` takes no function that defines `jvp`."""

    @staticmethod
    def forward(system: System, n: int, m: int, *tensors: Tensor) -> Tensors:  # type: ignore[override]
        return tuple(t.clone() for t in tensors[:n])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.system, ctx.n, ctx.m, *tensors = inputs
        ctx.dtypes = []
        ctx.save_for_backward(*output, *tensors[ctx.n :])
        ctx.save_for_forward(*output, *tensors[ctx.n :])

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, system: System, n: int, m: int, *tensors: Tensor
    ) -> tuple[Tensors, tuple[int, ...]]:
        """A batch of systems is a system with one more batch axis, whose condition is vmapped."""
        dims = in_dims[3:]
        y = tuple(
            t.unsqueeze(0).expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
            for t, d in zip(tensors[:n], dims[:n], strict=True)
        )
        # As the forward drew; where that drew nothing, nothing is drawn here.
        randomness = "same" if info.randomness == "error" else info.randomness
        condition = torch.func.vmap(system.condition, in_dims=((0,) * n, tuple(dims[n:])), randomness=randomness)
        batched = dataclasses.replace(
            system, condition=condition, batch_dims=system.batch_dims + 1, report=None, tape=None, ravel=None
        )
        return _AttachInTransform.apply(batched, n, m, *y, *tensors[n:]), (0,) * n

    @staticmethod
    @eager
    def jvp(ctx: Any, *tangents: Any) -> Tensors:
        system, n = ctx.system, ctx.n
        saved = tuple(unpack_tangent(t)[0] for t in ctx.saved_tensors)
        y, inputs = saved[:n], saved[n:]
        moving = [i for i, tangent in enumerate(tangents[3 + n :]) if tangent is not None]
        # torch turns forward mode off in here, which would silently drop the tangents of an outer level.
        with forward_mode(True):
            check_complete(system.condition, y, inputs)
            vjp = pull_to_inputs(system.condition, y, inputs, moving)
            dF = pullback(vjp, tuple(torch.zeros_like(t) for t in y))[1](tuple(tangents[3 + n + i] for i in moving))
            v = system.solve(y, inputs, tuple(-t for t in dF), transpose=False)
            if any(is_grads_batched(t) for t in dF):  # gradcheck's batched forward mode, which is first order
                return v
            return attach(system.tangent(), v, (*y, *dF, *inputs))


class _Slot(torch.autograd.Function):
    """y as the argument of F on the tape: products with A^T end here, and the backward of F's other inputs does too."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.ends_here = True  # to those who follow the tape: y is no tensor that F has read
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> None:
        return None


class Recorded(NamedTuple):
    """One evaluation of a condition.

    Attributes:
        condition: with all that it reads made explicit.
        residual: its value.
        tape: u -> A^T u by the tape of that evaluation; None: the backward evaluates the condition again.
    """

    condition: Lifted
    residual: Tensors
    tape: Pullback | None


def record(condition: Condition, leaves: Tensors, args: Tensors, closed: bool) -> Recorded:
    """Evaluate a condition at the frozen `leaves` of y, with a tape where it may be read more than once."""
    made_explicit = lift_closed if closed else lift
    # Under checkpointing and other hooks a tape may be read once only: then F is evaluated again in the backward.
    if in_transform() or saved_tensors_are_hooked():
        return Recorded(*made_explicit(condition, leaves, args), None)
    own = tuple(t.detach().requires_grad_() for t in leaves)
    slot = tuple(apply_visibly(_Slot, t) for t in own)
    lifted, residual = made_explicit(condition, slot, args)
    if not any(t.requires_grad for t in lifted.inputs):
        differentiable = [t for t in residual if t.requires_grad]
        if not reaches_leaf(differentiable, {id(t) for t in own}):  # nothing to differentiate in
            return Recorded(lifted, tuple(t.detach() for t in residual), None)
    return Recorded(lifted, residual, pullback_on_tape(residual, slot, leaves))
