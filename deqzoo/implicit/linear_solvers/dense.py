"""The direct solver: write the matrix out, factorise it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import LinearSolver, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class Dense(LinearSolver):
    """LU factorisation of A, written out by a product for each unknown: for systems of up to some hundred unknowns.

    The products are taken in one batch where the operator is a Jacobian.

    >>> A = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
    >>> Dense()(LinearOperator.from_matrix(A), torch.tensor([[3.0, 4.0]])).value
    tensor([[1., 1.]])
    """

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; a singular matrix gives the status DIVERGED."""
        matrix = operator.to_dense(b)
        x, info = torch.linalg.solve_ex(matrix, b.unsqueeze(-1))
        x = x.squeeze(-1)
        residual = safe_divide(row_norm(b - (matrix @ x.unsqueeze(-1)).squeeze(-1)), row_norm(b))
        regular = (info == 0) & torch.isfinite(residual)
        # One factorisation is all that can be had; the tolerance only labels the result.
        reached = regular & (residual <= max(tol, 1e3 * torch.finfo(b.dtype).eps))
        status = torch.where(reached, Status.CONVERGED, torch.where(regular, Status.STALLED, Status.DIVERGED))
        return Solution(x, status, residual, torch.ones_like(status), nfe=b.shape[1])
