"""The direct solver: write the matrix out, factorise it."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..modes import in_transform
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
        if len(b) == 1 and b.device.type == "cpu" and not in_transform():
            return _solve_one(matrix[0], b[0], tol)
        x, info = torch.linalg.solve_ex(matrix, b.unsqueeze(-1))
        x = x.squeeze(-1)
        residual = safe_divide(row_norm(b - (matrix @ x.unsqueeze(-1)).squeeze(-1)), row_norm(b))
        regular = (info == 0) & torch.isfinite(residual)
        reached = regular & (residual <= _reachable(tol, b.dtype))
        status = torch.where(reached, Status.CONVERGED, torch.where(regular, Status.STALLED, Status.DIVERGED))
        return Solution(x, status, residual, torch.ones_like(status), nfe=b.shape[1])


def _solve_one(matrix: Tensor, b: Tensor, tol: float) -> Solution:
    """The same for a single system on the CPU: its scalars are Python's, a third of the operations."""
    x, info = torch.linalg.solve_ex(matrix, b)
    norm, scale = (torch.linalg.vector_norm(v).item() for v in (b - matrix @ x, b))
    residual = norm / scale if scale else norm
    status = Status.CONVERGED if residual <= _reachable(tol, b.dtype) else Status.STALLED
    if info.item() or not math.isfinite(residual):
        status = Status.DIVERGED
    count = torch.ones(1, dtype=torch.long)
    return Solution(x.unsqueeze(0), torch.full_like(count, status), b.new_full((1,), residual), count, nfe=len(b))


def _reachable(tol: float, dtype: torch.dtype) -> float:
    """One factorisation is all that can be had; the tolerance only labels the result."""
    return max(tol, 1e3 * torch.finfo(dtype).eps)
