"""Linear equations as a differentiable function, factorised once for the solution and all its derivatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .implicit_function import ImplicitFunction
from .linear_solvers import Dense, LinearSolver
from .linear_solvers.base import begin, row_norm, safe_divide
from .modes import eager, host_flags, in_transform, no_derivatives
from .operator import LinearOperator, check_tags
from .solution import OnFailure, Solution, Status


@eager
def linear_solve(A: Tensor, b: Tensor, *, tags: Sequence[str] = (), on_failure: OnFailure = "warn") -> Tensor:
    """The solution of A x = b, differentiable in A and b, in every mode and to any order.

        dx = A^-1 (db - dA x)

    A is factorised once: by Cholesky, where it is tagged as positive definite, else by LU with pivoting. Derivatives
    use the factors again, with a step of refinement.

    Args:
        A: (..., n, n); without batch axes it is shared by all b, and factorised once for them.
        b: (..., n).
        tags: what is known of A: "symmetric", "positive_definite".
        on_failure: "ignore", "warn" or "raise" where A is singular: then x is the shortest least-squares solution.

    >>> A = torch.tensor([[2.0, 1.0], [0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    >>> x = linear_solve(A, torch.tensor([3.0, 4.0], dtype=torch.float64))
    >>> x.detach(), torch.autograd.grad(x.sum(), A)[0]
    (tensor([1., 1.], dtype=torch.float64), tensor([[-0.5000, -0.5000],
            [-0.1250, -0.1250]], dtype=torch.float64))
    """
    check_tags(tags)
    if A.dim() < 2 or b.dim() < 1 or A.shape[-2:] != (b.shape[-1], b.shape[-1]):
        raise ValueError(
            f"A and b must have shapes (..., n, n) and (..., n), got {tuple(A.shape)} and {tuple(b.shape)}"
        )
    batch_shape = torch.broadcast_shapes(A.shape[:-2], b.shape[:-1])
    with no_derivatives():
        rows = b.detach().expand(*batch_shape, b.shape[-1]).reshape(-1, b.shape[-1])
        matrix = A.detach()
        if matrix.dim() > 2:
            matrix = matrix.expand(*batch_shape, *A.shape[-2:]).reshape(-1, *A.shape[-2:])
        solver = _Factorised(solves=_factorise(matrix, "positive_definite" in tags))
        solution = solver(LinearOperator.from_matrix(matrix, tags), rows)
    solution.check(on_failure, "linear solve", advice="A is singular, or nearly so")
    implicit = ImplicitFunction(
        _already_solved,
        lambda x, A, b: _times(A, x) - b,
        linear_solver=solver,
        batch_dims=len(batch_shape),
        tags=tags,
        on_failure=on_failure,
    )
    return implicit.differentiable(solution.value.reshape(*batch_shape, b.shape[-1]), A, b)


Solve = Callable[[Tensor], Tensor]


def _factorise(matrix: Tensor, definite: bool) -> tuple[Solve, ...]:
    """v -> A^-1 v and v -> A^-T v on (systems, n), by one factorisation; one alone where A is positive definite."""
    shared = matrix.dim() == 2

    def on_rows(solve: Solve) -> Solve:
        return (lambda v: solve(v.mT).mT) if shared else (lambda v: solve(v.unsqueeze(-1)).squeeze(-1))

    if definite:
        lower, _ = torch.linalg.cholesky_ex(matrix)
        return (on_rows(lambda v: torch.cholesky_solve(v, lower)),)
    lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
    return (
        on_rows(lambda v: torch.linalg.lu_solve(lu, pivots, v)),
        on_rows(lambda v: torch.linalg.lu_solve(lu, pivots, v, adjoint=True)),
    )


@dataclasses.dataclass(frozen=True)
class _Factorised(LinearSolver):
    """Systems with A or its transpose by factors at hand; `Dense` where these do not serve.

    Args:
        solves: the solve with A and, if that is another, the one with its transpose: tried in turn.
    """

    solves: tuple[Solve, ...] = ()

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`."""
        if in_transform():  # there the factors are those of another level
            return Dense(self.tol).solve(operator, b, x0, tol)
        start = begin(operator, b, None)
        target = max(tol, 1e3 * torch.finfo(b.dtype).eps) * start.size
        for number, solve in enumerate(self.solves, 1):
            x = solve(start.b)
            x = x + solve(start.b - operator.mv(x))
            norm = row_norm(start.b - operator.mv(x))
            reached = norm <= target
            if host_flags(reached | ~torch.isfinite(start.size))[0][1]:
                status = torch.where(reached, Status.CONVERGED, Status.DIVERGED)
                return Solution(x, status, safe_divide(norm, start.size), torch.ones_like(status), 2 * number)
        return Dense(self.tol).solve(operator, b, None, tol)


def _times(A: Tensor, x: Tensor) -> Tensor:
    return x @ A.mT if A.dim() == 2 else (A @ x.unsqueeze(-1)).squeeze(-1)


def _already_solved(*args: object) -> object:
    raise AssertionError("the solution is handed to differentiable()")
