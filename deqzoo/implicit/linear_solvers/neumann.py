"""The truncated Neumann series."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import LinearSolver, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class Neumann(LinearSolver):
    """x = sum_{i=0}^{k} (I - A)^i b, the first k + 1 terms of A^-1 b, for A near the identity.

    With the condition z - f(z) of a fixed point, I - A is the Jacobian of f and the series is the adjoint of k + 1
    steps of plain iteration; k = 0 is the one-step (Jacobian-free) gradient. The error of the truncation is at most
    L^(k+1) / (1 - L) relative to b for a Lipschitz constant L < 1. A preconditioner M^-1 makes it x += M^-1 (b - A x).

    Args:
        k: products with A.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020.

    >>> A = torch.tensor([[0.5]])
    >>> Neumann(k=2)(LinearOperator.from_matrix(A), torch.tensor([[1.0]])).value
    tensor([[1.7500]])
    """

    k: int = 10
    truncated = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0:
            raise ValueError(f"Neumann needs k >= 0 products, got {self.k}")

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`. The residual reported is that before the last product."""
        precondition = operator.preconditioner or (lambda v: v)
        residual = b if x0 is None else b - operator.mv(x0)
        x = precondition(residual) if x0 is None else x0 + precondition(residual)
        for _ in range(self.k):
            residual = b - operator.mv(x)
            x = x + precondition(residual)
        relative = safe_divide(row_norm(residual), row_norm(b))
        status = torch.where(relative <= tol, Status.CONVERGED, Status.MAX_STEPS)
        status = torch.where(torch.isfinite(relative), status, Status.DIVERGED)
        return Solution(x, status, relative, torch.full_like(status, self.k), nfe=self.k + (x0 is not None))
