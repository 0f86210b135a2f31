"""Quadratic and linear programs as differentiable functions of all that defines them."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..implicit_function import ImplicitFunction
from ..modes import eager, full_precision, needs_derivative, no_derivatives
from ..problem import report_to, returned
from ..pytree import map_tensors
from ..solution import OnFailure, Solution
from .interior_point import InteriorPoint
from .kkt import RefinedKKT, stacked, stationarity
from .program import PrimalDual, QuadraticProgram, complete, times

_ADVICE = "Check the constraints, raise max_steps, or loosen tol"


@overload
def quadratic_program(
    P: Tensor,
    q: Tensor,
    A: Tensor | None = None,
    b: Tensor | None = None,
    G: Tensor | None = None,
    h: Tensor | None = None,
    *,
    return_solution: Literal[False] = False,
    **options: Any,
) -> PrimalDual: ...


@overload
def quadratic_program(
    P: Tensor,
    q: Tensor,
    A: Tensor | None = None,
    b: Tensor | None = None,
    G: Tensor | None = None,
    h: Tensor | None = None,
    *,
    return_solution: Literal[True],
    **options: Any,
) -> tuple[PrimalDual, Solution]: ...


@eager
def quadratic_program(
    P: Tensor,
    q: Tensor,
    A: Tensor | None = None,
    b: Tensor | None = None,
    G: Tensor | None = None,
    h: Tensor | None = None,
    *,
    solver: InteriorPoint | None = None,
    start: PrimalDual | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
) -> PrimalDual | tuple[PrimalDual, Solution]:
    """The solution of a convex quadratic program, differentiable in all six arguments.

        min_x 1/2 x'Px + q'x    subject to    Ax = b,  Gx <= h

    Each argument may have leading batch axes, the same ones, or none: one that has none is shared by all programs. Each
    program is a system of its own. The derivative is that of the optimality conditions, in every mode and to any order;
    its linear systems are solved by the last factorisation of the interior-point method, with iterative refinement.
    The solution is differentiable where the active constraints are independent, each has a positive multiplier, and P
    is positive definite along them. Where an active constraint has no multiplier (a kink), the derivative is one of
    those of the two sides.

    Args:
        P: (..., n, n), symmetric positive semidefinite, zero included.
        q: (..., n).
        A, b: (..., p, n) and (..., p); None: no equalities.
        G, h: (..., m, n) and (..., m); None: no inequalities.
        solver: `InteriorPoint()` by default.
        start: the solution of a program nearby (same sizes), from which fewer steps are needed; cold where it is NaN.
        on_failure: "ignore", "warn" or "raise" where a program has no solution or was not solved, or the linear system
            of a derivative was not.
        return_solution: also return the `Solution`.

    Returns:
        `PrimalDual(x, equality_duals, inequality_duals, slacks)`, or that and the solution. A program that is
        INFEASIBLE or UNBOUNDED, or holds a NaN or Inf, is NaN there.

    Raises:
        TypeError, ValueError: where shapes, dtypes or devices do not fit, or P is not symmetric or is indefinite.

    Source: Amos, Kolter, "OptNet: Differentiable Optimization as a Layer in Neural Networks", 2017.

    >>> q = torch.tensor([-3.0, -1.0], dtype=torch.float64, requires_grad=True)
    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> point = quadratic_program(eye, q, G=eye, h=torch.ones(2, dtype=torch.float64) * 2)
    >>> point.x.detach().numpy().round(6), point.inequality_duals.detach().numpy().round(6)
    (array([2., 1.]), array([1., 0.]))
    >>> torch.autograd.grad(point.x.sum(), q)[0].numpy().round(6) + 0.0
    array([ 0., -1.])
    """
    solver = InteriorPoint() if solver is None else solver
    if not isinstance(solver, InteriorPoint):
        raise TypeError(f"solver must be an InteriorPoint, got {solver!r}")
    arguments, batch_shape = complete(P, q, A, b, G, h)
    equalities, inequalities = arguments[2].shape[-2], arguments[4].shape[-2]
    with no_derivatives(), full_precision(q.device.type):
        program = QuadraticProgram.of(map_tensors(torch.Tensor.detach, arguments), batch_shape)
        rows = None if start is None else _rows(start, batch_shape, (q.shape[-1], equalities, inequalities))
        solution, active = solver(program, rows)
    solution.check(on_failure, "quadratic program", advice=_ADVICE)
    found = [t.reshape(*batch_shape, t.shape[-1]) for t in solution.value]
    for name in ("status", "residual", "steps"):
        setattr(solution, name, getattr(solution, name).reshape(batch_shape))
    solution.value = PrimalDual(*found)
    if not needs_derivative():
        return _handed_out(solution.value, solution, return_solution)
    implicit = ImplicitFunction(
        _already_solved,
        stationarity,
        linear_solver=RefinedKKT(active=active),
        batch_dims=len(batch_shape),
        tags=("symmetric",),
        on_failure=on_failure,
    )
    ratios = active.ratios.reshape(*batch_shape, inequalities)
    data = *stacked(arguments), ratios
    x, y, z = implicit.differentiable(tuple(found[:3]), *data, report=report_to(solution), closed=True)
    G, h = arguments[4:]
    return _handed_out(PrimalDual(x, y, z, h - times(G, x)), solution, return_solution)


def linear_program(
    c: Tensor,
    A: Tensor | None = None,
    b: Tensor | None = None,
    G: Tensor | None = None,
    h: Tensor | None = None,
    **options: Any,
) -> Any:
    """The solution of a linear program, differentiable in all five arguments.

        min_x c'x    subject to    Ax = b,  Gx <= h

    At a regular vertex, where just n constraints are active and each inequality among them has a positive multiplier,
    x moves with these constraints alone: dx/db and dx/dh are those of n linear equations, and dx/dc = 0 (the value c'x
    has the derivative x in c). The vertex is degenerate where more than n constraints are active: then the multipliers
    are not unique; or where a multiplier is 0: then neither is x, and the solution is inside the face of all solutions.
    Derivatives do not exist there. The linear system for them is singular: what it leaves is its shortest
    least-squares solution, with a warning ("adjoint solve ... stalled", see `Solution.backward`) where the system has
    no solution or more than one. For x as a smooth function of c add a small curvature: `quadratic_program` with
    P = strength * I.

    Arguments, options and the result are those of `quadratic_program`.

    >>> h = torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> point = linear_program(torch.tensor([-1.0, -2.0], dtype=torch.float64), G=torch.cat([eye, -eye]), h=h)
    >>> point.x.detach().numpy().round(6)
    array([1., 2.])
    >>> torch.autograd.grad(point.x.sum(), h)[0].numpy().round(6) + 0.0
    array([1., 1., 0., 0.])
    """
    return quadratic_program(c.new_zeros(c.shape[-1], c.shape[-1]), c, A, b, G, h, **options)


def _rows(start: PrimalDual, batch_shape: torch.Size, sizes: tuple[int, int, int]) -> PrimalDual:
    """The start with one batch axis."""
    rows = []
    for name, t, size in zip(PrimalDual._fields, start, (*sizes, sizes[2]), strict=True):
        if t.shape[-1:] != (size,):
            raise ValueError(f"start.{name} must have shape (..., {size}), got {tuple(t.shape)}")
        rows.append(t.detach().expand(*batch_shape, size).reshape(batch_shape.numel(), size))
    return PrimalDual(*rows)


def _handed_out(value: PrimalDual, solution: Solution, with_solution: bool) -> Any:
    value, solution = returned(value, solution)
    return (value, solution) if with_solution else value


def _already_solved(*args: Any) -> Any:
    raise AssertionError("the solution is handed to differentiable()")
