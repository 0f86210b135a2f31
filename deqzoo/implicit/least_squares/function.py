"""Nonlinear least squares as a differentiable function."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..adjoints import EquationAdjoint, Implicit
from ..api import named, root
from ..by_name import instance
from ..linear_solvers import CG, Dense, LinearSolver
from ..minimizers import gradient
from ..modes import eager, host_flags
from ..operator import pullback
from ..problem import Problem, returned
from ..pytree import Ravel
from ..root_solvers import Newton
from ..solution import OnFailure, Solution
from .adjoint import GaussNewtonStep
from .columns import Columns
from .losses import LOSSES, Loss, Square
from .solvers import (
    LEAST_SQUARES_SOLVERS,
    Dogleg,
    GaussNewton,
    LeastSquaresSolver,
    LevenbergMarquardt,
    Model,
    objective_of,
    residuals,
)

ADJOINTS: dict[str, type[EquationAdjoint]] = {"implicit": Implicit, "gauss_newton_step": GaussNewtonStep}
_DENSE = 200  # unknowns, up to which the Hessian is written out for derivatives
_TOL = 0.625  # power of eps, of that: the scales of so many unknowns differ, and with them what round-off leaves of b
_FACTORISED = 2**22  # entries of J'WJ, up to which it preconditions their linear solver


@eager
def least_squares(
    residual: Callable[..., Any],
    y0: Any,
    *args: Any,
    solver: LeastSquaresSolver | str | None = None,
    loss: Loss | str | None = None,
    adjoint: EquationAdjoint | str | None = None,
    batch_dims: int = 0,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """The y with the least sum of squares of a residual, or of another loss, differentiable in all that it reads.

        min_y 1/2 sum_i r_i(y, *args)^2,    dy/dargs = -H^-1 d(J'r)/dargs

    with the exact Hessian H = J'J + sum_i r_i d2r_i/dy2: also where the residual does not vanish. Where there are fewer
    residuals than unknowns, the solution is the root of r that is nearest to the start (of least norm, for y0 = 0),

        min_y ||y - y0||^2    subject to    r(y, *args) = 0

    and so is its derivative. For linear r that is the pseudo-inverse's.

    Args:
        residual: `residual(y, *args)`, a tensor or a pytree of tensors; with `batch_dims=1` each leading index has the
            residuals of its system.
        y0: start, a tensor or a pytree of tensors; no gradient flows to it.
        solver: `LevenbergMarquardt()` by default; `Dogleg` (for many unknowns, matrix-free), `GaussNewton`, or the
            name of one. With fewer residuals than unknowns: none, it is `Newton` on the conditions.
        loss: `Square()` by default; `Huber`, `SoftL1`, `Cauchy`, or the name of one ("huber"), of scale 1. Each
            residual has its own.
        adjoint: `Implicit()` by default, by the linear solver `Dense()` up to 200 unknowns, else `CG()`, which J'J
            preconditions up to 2,000 unknowns unless the solver is one that never writes J out. Where J has
            less than full rank, the solution is not unique: that of the linear system is the shortest, with a warning.
            `GaussNewtonStep()`, which leaves second derivatives of r in y out, where there are enough residuals.

    Other arguments and the result are those of `fixed_point`. When a system has converged: see `Minimizer`.

    Source: Nocedal, Wright, "Numerical Optimization", 2006, chapter 10.

    A straight line through points, and how its slope depends on the last one:

    >>> x, t = torch.arange(3.0), torch.tensor([1.0, 3.0, 5.0], requires_grad=True)
    >>> line = least_squares(lambda y, t: y[0] + y[1] * x - t, torch.zeros(2), t)
    >>> line.detach().numpy().round(4), torch.autograd.grad(line[1], t)[0].numpy().round(4) + 0.0
    (array([1., 2.], dtype=float32), array([-0.5,  0. ,  0.5], dtype=float32))
    """
    loss = Square() if loss is None else instance("loss", LOSSES, loss)
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be a Loss, or one of {', '.join(LOSSES)}, got {loss!r}")
    residual, args = named(residual, args, kwargs, least_squares)
    ravel = Ravel(y0, batch_dims)
    with torch.no_grad():
        count = residuals(residual, y0, args, batch_dims).shape[1]
    options = {"batch_dims": batch_dims, "on_failure": on_failure, "adjoint": adjoint}
    if count < sum(ravel.sizes):
        if solver is not None or not isinstance(loss, Square):
            raise ValueError(
                f"with {count} residuals for {sum(ravel.sizes)} unknowns, least_squares finds the root nearest to the "
                "start: it takes neither solver nor loss there"
            )
        (y, _), solution = _nearest_root(residual, y0, args, count, options)
        solution.value = solution.value[0]
    else:
        y, solution = _least(residual, y0, args, loss, solver, options)
    return (y, solution) if return_solution else y


@dataclasses.dataclass
class _LeastSquaresProblem(Problem):
    """A problem whose `f` is the residual; `model(*args)` is the model of Gauss and Newton."""

    loss: Loss = Square()  # noqa: RUF009  (frozen)
    columns: Columns = dataclasses.field(default_factory=Columns)

    def model(self, *args: Any) -> Model:
        """For derivatives."""
        ravel = Ravel(self.y0, self.batch_dims)
        return Model(lambda z: residuals(self.f, ravel.unflatten(z), args, self.batch_dims), self.loss, self.columns)

    def run_solver(self, f: Callable[..., Any], **options: Any) -> Solution:
        """As `Problem.run_solver`."""
        return super().run_solver(f, loss=self.loss, columns=self.columns, **options)

    def by_model(self) -> Callable[..., Any]:
        """(J'WJ)^-1 as a preconditioner of the Hessian, from which it differs by the residuals' second derivatives.

        The identity where J'WJ is singular.
        """
        factors: list[Tensor | None] = []

        def precondition(v: Any, y: Any, *args: Any) -> Any:
            ravel = Ravel(y, self.batch_dims)
            if not factors:
                J = self.model(*args).jacobian(ravel.flatten(y).detach())
                lower, failed = torch.linalg.cholesky_ex(J.mT @ J)
                pivots, eps = lower.diagonal(dim1=1, dim2=2), torch.finfo(lower.dtype).eps
                regular = (failed == 0) & (pivots.amin(dim=1) ** 2 > len(pivots[0]) * eps * pivots.amax(dim=1) ** 2)
                factors.append(lower if host_flags(regular)[0][1] else None)
            if factors[0] is None:
                return v
            return ravel.unflatten(torch.cholesky_solve(ravel.flatten(v).unsqueeze(-1), factors[0]).squeeze(-1))

        return precondition


def _least(
    residual: Callable[..., Any],
    y0: Any,
    args: tuple[Any, ...],
    loss: Loss,
    solver: LeastSquaresSolver | str | None,
    options: dict[str, Any],
) -> Any:
    found = LevenbergMarquardt() if solver is None else instance("solver", LEAST_SQUARES_SOLVERS, solver)
    if not isinstance(found, LeastSquaresSolver):
        raise TypeError(f"solver must be one of {', '.join(LEAST_SQUARES_SOLVERS)}, got {found!r}")
    batch_dims = options["batch_dims"]
    objective = objective_of(residual, loss, batch_dims)
    ravel = Ravel(y0, batch_dims)
    unknowns = sum(ravel.sizes)
    dense = unknowns <= _DENSE
    problem = _LeastSquaresProblem(
        name="argmin",
        f=residual,
        y0=y0,
        args=args,
        solver=found,
        conditions=lambda y, *args: gradient(objective, y, *args, batch_dims=batch_dims)[0],
        linear_solver=cast(LinearSolver, Dense() if dense else CG()),
        batch_dims=batch_dims,
        tags=("symmetric",) if dense else ("symmetric", "positive_definite"),
        on_failure=options["on_failure"],
        loss=loss,
    )
    if not dense and ravel.systems * unknowns**2 <= _FACTORISED and not isinstance(found, Dogleg | GaussNewton):
        problem.preconditioner = problem.by_model()
        problem.linear_solver = CG(tol=torch.finfo(ravel.dtype).eps ** _TOL)
    adjoint = options["adjoint"]
    chosen = Implicit() if adjoint is None else instance("adjoint", ADJOINTS, adjoint)
    if not isinstance(chosen, EquationAdjoint) or "argmin" not in chosen.problems:
        raise TypeError(f"the adjoint of least_squares must be Implicit(...) or GaussNewtonStep(), got {chosen!r}")
    return returned(*chosen.apply(problem))


def _nearest_root(
    residual: Callable[..., Any], y0: Any, args: tuple[Any, ...], count: int, options: dict[str, Any]
) -> Any:
    """The root nearest to y0, with its multipliers m: y - y0 + J'm = 0, r = 0."""
    batch_dims = options["batch_dims"]
    ravel = Ravel(y0, batch_dims)
    start = ravel.flatten(y0).detach()
    multipliers = start.new_zeros(*ravel.batch_shape, count)

    def conditions(point: tuple[Any, Tensor], *args: Any) -> tuple[Any, Tensor]:
        y, m = point
        rows = ravel.flatten(y)
        (r,), vjp = pullback(lambda z: (residuals(residual, ravel.unflatten(z[0]), args, batch_dims),), (rows,))
        off = rows - start + vjp((m.reshape(r.shape),))[0]
        return ravel.unflatten(off), r.reshape(m.shape)

    adjoint = Implicit(Dense()) if options["adjoint"] is None else options["adjoint"]
    given = {**options, "adjoint": adjoint, "tags": ("symmetric",), "solver": Newton()}
    return root(conditions, (y0, multipliers), *args, return_solution=True, **given)
