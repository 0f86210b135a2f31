"""`ImplicitFunction`: what a black box returns, as a differentiable function of its arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .black_box import as_tensors, call_black_box
from .bridge import Condition, Pullback, System, attach, record
from .by_name import instance
from .linear_solvers import GMRES, LINEAR_SOLVERS, LinearSolver
from .modes import call_unchanged, eager, in_transform, keep_autocast, needs_derivative, no_derivatives
from .operator import check_tags
from .precision import Coarsest
from .pytree import Ravel, Tensors, map_tensors, tensor_leaves, with_keywords, with_tensors
from .solution import FAILURES, OnFailure, Solution


class ImplicitFunction:
    """A function x -> y(x) computed by a black box and differentiated through the condition F(y, x) = 0.

        dy/dx = -A^-1 dF/dx,    A = dF/dy at (y, x)

    Args:
        solve: `solve(*args) -> y`, or `(y, aux)` with `has_aux`. Runs without autograd, on detached tensors: NumPy,
            SciPy or C inside are fine, and y may hold NumPy's arrays in place of tensors.
        conditions: `conditions(y, *args) -> residual`, of the structure and shapes of y and zero at the solution.
            Written in torch, differentiable in y and in whatever needs a gradient; tensors that it captures get theirs.
        linear_solver: for systems with A or A^T, `GMRES()` by default; `CG`, `Neumann`, `Dense`, or the name of one.
        has_aux: `solve` also returns something that is handed on as it is, without derivatives.
        batch_dims: 0: all of y is one system; 1: each leading index of y is a system of its own.
        tags: what is known of A: "symmetric", "positive_definite".
        preconditioner: `preconditioner(v, y, *args)`, linear in v and near A^-1 v, of the structure of y. Transposed
            where A is. It changes the cost, not the result; inside torch.func transforms it is left out.
        vectorized: `solve` works under `torch.func.vmap` by itself; else it is called once for each index.
        on_failure: "ignore", "warn" or "raise" when a linear solve does not converge, or when the conditions are far
            from zero at what `solve` returned: where, to first order, it takes a change of y by more than a thousandth
            of its norm to make them zero. (They are checked where derivatives are recorded.)

    Calling it gives y (or `(y, aux)`), which works in reverse mode to any order, in forward mode and under
    `torch.func`. Pytrees may come in and go out; keyword arguments go to `solve` and `conditions` alike. Where an order
    or mode cannot work, it raises.

    Source: Blondel et al., "Efficient and Modular Implicit Differentiation", 2022; ImplicitDifferentiation.jl.

    >>> import numpy as np
    >>> root = ImplicitFunction(
    ...     solve=lambda a: torch.from_numpy(np.sqrt(a.numpy())),
    ...     conditions=lambda y, a: y**2 - a,
    ... )
    >>> a = torch.tensor([4.0, 9.0], dtype=torch.float64, requires_grad=True)
    >>> root(a).sum().backward()
    >>> a.grad  # 1 / (2 sqrt(a))
    tensor([0.2500, 0.1667], dtype=torch.float64)
    """

    def __init__(
        self,
        solve: Callable[..., Any],
        conditions: Callable[..., Any],
        *,
        linear_solver: LinearSolver | str | None = None,
        has_aux: bool = False,
        batch_dims: int = 0,
        tags: Sequence[str] = (),
        preconditioner: Callable[..., Any] | None = None,
        vectorized: bool = False,
        on_failure: OnFailure = "warn",
    ) -> None:
        if on_failure not in FAILURES:
            raise ValueError(f"on_failure must be one of {', '.join(FAILURES)}, got {on_failure!r}")
        check_tags(tags)
        self.solve = solve
        self.conditions = conditions
        found = GMRES() if linear_solver is None else instance("linear solver", LINEAR_SOLVERS, linear_solver)
        self.linear_solver: LinearSolver = found
        self.has_aux = has_aux
        self.batch_dims = batch_dims
        self.tags = tuple(tags)
        self.preconditioner = preconditioner
        self.vectorized = vectorized
        self.on_failure = on_failure

    @eager
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """y(*args, **kwargs), or (y, aux)."""
        solve, args, names = with_keywords(self.solve, tuple(kwargs)), (*args, *kwargs.values()), tuple(kwargs)

        def found(*inputs: Any) -> tuple[Any, Any]:
            result = solve(*inputs)
            if self.has_aux and not (isinstance(result, tuple) and len(result) == 2):
                raise TypeError(f"with has_aux=True, solve must return (y, aux), got {type(result).__name__}")
            y, aux = result if self.has_aux else (result, None)
            return as_tensors(y, inputs), aux

        with no_derivatives():
            inputs = map_tensors(torch.Tensor.detach, args)
            y, aux = found(*inputs) if self.vectorized else call_black_box(found, inputs)
        y = self._differentiable(y, args, names, None, look=True)
        return (y, aux) if self.has_aux else y

    @eager
    def differentiable(
        self,
        y: Any,
        *args: Any,
        report: Callable[[Solution], None] | None = None,
        look: bool = False,
        jacobian: Callable[[], Tensor] | None = None,
        closed: bool = False,
    ) -> Any:
        """A solution y that is at hand, as a differentiable function of `args`.

        `report` gets each adjoint solve; `look`: check the conditions, as a call does; `jacobian` writes dF/dy at y
        out, (systems, unknowns, unknowns), for a linear solver that takes it whole; `closed`: the conditions read no
        tensor that matters besides y and `args`, in whose precision they compute, so that none is looked for.
        """
        return self._differentiable(y, args, (), report, look, jacobian, closed)

    def _differentiable(
        self,
        y: Any,
        args: tuple[Any, ...],
        names: tuple[str, ...],
        report: Callable[[Solution], None] | None,
        look: bool,
        jacobian: Callable[[], Tensor] | None = None,
        closed: bool = False,
    ) -> Any:
        ravel = Ravel(y, self.batch_dims)
        leaves = _frozen(tensor_leaves(y))
        if not needs_derivative():
            return ravel.restore([t.clone() for t in leaves])  # the solver may have returned a tensor of the caller's
        seen, conditions = Coarsest(ravel.dtype), with_keywords(self.conditions, names)
        if not closed or torch.is_autocast_enabled(ravel.device.type):
            conditions = seen.first_call(conditions)
        condition = keep_autocast(_on_leaves(conditions, ravel, args), ravel.device.type)
        recorded = record(condition, leaves, tuple(tensor_leaves(args)), closed)
        system = System(
            recorded.condition,
            self.linear_solver,
            self.batch_dims,
            self.tags,
            self._preconditioner(ravel, y, args, names),
            on_failure=self.on_failure,
            report=report,
            tape=recorded.tape,
            ravel=ravel,
            precision=seen.dtype,
            jacobian=None if in_transform() else jacobian,
        )
        if look and self.on_failure != "ignore":
            system.check_conditions(leaves, recorded.residual)
        return ravel.restore(attach(system, leaves, recorded.condition.inputs, recorded.residual))

    def _preconditioner(self, ravel: Ravel, y: Any, args: tuple[Any, ...], names: tuple[str, ...]) -> Pullback | None:
        """The user's preconditioner on leaves, at (y, args)."""
        if self.preconditioner is None:
            return None
        precondition = with_keywords(self.preconditioner, names)
        return lambda v: tuple(ravel.leaves(precondition(ravel.restore(v), y, *args)))


def _frozen(leaves: Sequence[Tensor]) -> Tensors:
    """The tensors off the tape; those made under `inference_mode`, as a start may be, as ordinary ones."""
    frozen = tuple(t.detach() for t in leaves)
    if torch.is_inference_mode_enabled():
        return frozen
    return tuple(t.clone() if t.is_inference() else t for t in frozen)


def _on_leaves(conditions: Callable[..., Any], ravel: Ravel, args: tuple[Any, ...]) -> Condition:
    """The user's conditions as a function of the leaves of y and of the tensors of the arguments."""

    def condition(leaves: Tensors, tensors: Tensors) -> Tensors:
        state = (*leaves, *tensors)
        residual = call_unchanged(conditions, state, ravel.restore(leaves), *with_tensors(args, tensors))
        return tuple(ravel.leaves(residual))

    return condition
