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
    """x = d sum_{i=0}^{k} (I - d A)^i b, the first k + 1 terms of A^-1 b, for A near the identity; d = damping.

    With the condition z - f(z) of a fixed point, I - A is the Jacobian of f and the series is the adjoint of k + 1
    steps of plain iteration, damped by d; k = 0 is the one-step (Jacobian-free) gradient. The error of the truncation
    is at most L^(k+1) / (1 - L) relative to b for a Lipschitz constant L < 1 of I - A, and d = 1. A preconditioner M^-1
    makes it x += d M^-1 (b - A x).

    Args:
        k: products with A.
        damping: d in (0, 1]; below 1 it also tames eigenvalues of I - A left of -1.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020;
    damped: Geng et al., "On Training Implicit Models", 2021 (its Neumann-series phantom gradient).

    >>> A = torch.tensor([[0.5]])
    >>> Neumann(k=2)(LinearOperator.from_matrix(A), torch.tensor([[1.0]])).value
    tensor([[1.7500]])
    """

    k: int = 10
    damping: float = 1.0
    truncated = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0:
            raise ValueError(f"Neumann needs k >= 0 products, got {self.k}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"Neumann needs damping in (0, 1], got {self.damping}")

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`. The residual reported is that before the last product."""
        precondition = operator.preconditioner or (lambda v: v)
        residual = b if x0 is None else b - operator.mv(x0)
        x = self.damping * precondition(residual) + (0.0 if x0 is None else x0)
        for _ in range(self.k):
            residual = b - operator.mv(x)
            x = x.add(precondition(residual), alpha=self.damping)
        relative = safe_divide(row_norm(residual), row_norm(b))
        status = torch.where(relative <= tol, Status.CONVERGED, Status.MAX_STEPS)
        status = torch.where(torch.isfinite(relative), status, Status.DIVERGED)
        return Solution(x, status, relative, torch.full_like(status, self.k), nfe=self.k + (x0 is not None))
