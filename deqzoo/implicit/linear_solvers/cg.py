"""Conjugate gradients, with the curvature checked."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..modes import host_flags, in_transform
from ..operator import LinearOperator, Product
from ..solution import Solution, Status
from .base import LinearSolver, dot, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class CG(LinearSolver):
    """Preconditioned conjugate gradients for symmetric positive definite A.

    The operator must carry the tag "positive_definite" (`argmin` sets it). A direction p with p^T A p <= 0 stops that
    system with the status BAD_CURVATURE and the iterate reached so far.

    Args:
        max_steps: products with A; None: ten times the number of unknowns, at least 100.

    Source: Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.

    >>> A = torch.tensor([[2.0, 1.0], [1.0, 4.0]])
    >>> CG()(LinearOperator.from_matrix(A, ["positive_definite"]), torch.tensor([[3.0, 5.0]])).value.round(decimals=4)
    tensor([[1., 1.]])
    """

    max_steps: int | None = None

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; each system is frozen when it is done."""
        if "positive_definite" not in operator.tags:
            raise ValueError(
                'CG needs an operator tagged "positive_definite"; pass tags=("positive_definite",) '
                "if it is, else use GMRES()"
            )
        limit = self.max_steps if self.max_steps is not None else max(100, 10 * b.shape[1])
        if len(b) == 1 and b.device.type == "cpu" and not in_transform():
            return _solve_one(operator.mv, operator.preconditioner, b, x0, tol, limit)
        precondition = operator.preconditioner or (lambda v: v)
        x = torch.zeros_like(b) if x0 is None else x0 + torch.zeros_like(b)
        r = b if x0 is None else b - operator.mv(x)
        p = precondition(r)
        rho = dot(r, p)
        target = tol * row_norm(b)
        steps = torch.zeros_like(target, dtype=torch.long)
        status = torch.full_like(steps, Status.MAX_STEPS)
        status = torch.where(row_norm(r) <= target, Status.CONVERGED, status)
        nfe = int(x0 is not None)
        for _ in range(limit):
            active = status == Status.MAX_STEPS
            ((any_active, _),) = host_flags(active)
            if not any_active:
                break
            product = operator.mv(p)
            nfe += 1
            curvature = dot(p, product)
            indefinite, finite = (curvature <= 0).squeeze(1), torch.isfinite(curvature).squeeze(1)
            status = torch.where(active & indefinite, Status.BAD_CURVATURE, status)
            status = torch.where(active & ~finite, Status.DIVERGED, status)  # the iterate before is kept
            moving = (active & ~indefinite & finite).unsqueeze(1)
            alpha = safe_divide(rho, curvature)
            x = torch.where(moving, x + alpha * p, x)
            r = torch.where(moving, r - alpha * product, r)
            s = precondition(r)
            rho, previous = dot(r, s), rho
            p = torch.where(moving, s + safe_divide(rho, previous) * p, p)
            steps = steps + moving.squeeze(1)
            norm = row_norm(r)
            active = moving.squeeze(1)
            status = torch.where(active & (norm <= target), Status.CONVERGED, status)
            status = torch.where(active & ~torch.isfinite(norm), Status.DIVERGED, status)
        return Solution(x, status, safe_divide(row_norm(r), row_norm(b)), steps, nfe)


def _solve_one(
    mv: Product, precondition: Product | None, b: Tensor, x0: Tensor | None, tol: float, limit: int
) -> Solution:
    """The same for a single system on the CPU: its scalars are Python's, a fifth of the operations."""
    x = torch.zeros_like(b) if x0 is None else x0.clone()
    r = b.clone() if x0 is None else b - mv(x)
    p = r.clone() if precondition is None else precondition(r).clone()
    p_entries, r_entries = p[0], r[0]  # views: both are updated in place

    def squared_norm() -> float:
        return torch.vdot(r_entries, r_entries).item()

    square, steps, nfe = squared_norm(), 0, int(x0 is not None)
    scale = math.sqrt(square) if x0 is None else torch.linalg.vector_norm(b).item()
    rho = square if precondition is None else torch.vdot(r_entries, p_entries).item()
    status = Status.MAX_STEPS
    while math.sqrt(square) > tol * scale and steps < limit:
        if steps:
            s = r if precondition is None else precondition(r)
            last, rho = rho, square if precondition is None else torch.vdot(r_entries, s[0]).item()
            torch.add(s, p, alpha=rho / last, out=p)
        product = mv(p)
        nfe += 1
        curvature = torch.vdot(p_entries, product[0]).item()
        if curvature <= 0 or not math.isfinite(curvature):
            status = Status.BAD_CURVATURE if curvature <= 0 else Status.DIVERGED
            break
        x.add_(p, alpha=rho / curvature)
        r.add_(product, alpha=-rho / curvature)
        square, steps = squared_norm(), steps + 1
    norm = math.sqrt(square)
    if norm <= tol * scale:
        status = Status.CONVERGED
    residual = b.new_full((1,), norm / scale if scale else 0.0)
    count = torch.full_like(residual, steps, dtype=torch.long)
    return Solution(x, torch.full_like(count, status), residual, count, nfe)
