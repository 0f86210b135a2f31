"""GMRES: the smallest residual in the Krylov space, for any regular A."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..modes import host_flags, host_max
from ..operator import LinearOperator, Product
from ..solution import Solution, Status
from .arnoldi import Arnoldi
from .base import LinearSolver, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class GMRES(LinearSolver):
    """Restarted GMRES with a right preconditioner: min ||b - A x|| over x in x0 + M^-1 K_j(A M^-1, r0).

    The small least-squares problem is solved by QR at each step, which also gives the residual.

    Args:
        restart: Krylov vectors kept, (restart + 1) copies of the state; on restart the true residual is recomputed.
        max_steps: products with A over all restarts; None: ten times the number of unknowns, at least 50, at most 1000.

    Source: Saad, Schultz, "GMRES: A Generalized Minimal Residual Algorithm", 1986.

    >>> A = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> GMRES()(LinearOperator.from_matrix(A), torch.tensor([[1.0, 2.0]])).value.round(decimals=4)
    tensor([[-2.,  1.]])
    """

    restart: int = 30
    max_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.restart < 1:
            raise ValueError(f"GMRES needs restart >= 1 Krylov vectors, got {self.restart}")

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; each system is frozen when it is done."""
        precondition = operator.preconditioner or (lambda v: v)
        limit = self.max_steps if self.max_steps is not None else min(1000, max(50, 10 * b.shape[1]))
        target = tol * row_norm(b)
        x = torch.zeros_like(b) if x0 is None else x0 + torch.zeros_like(b)
        r = b if x0 is None else b - operator.mv(x)
        nfe = int(x0 is not None)
        steps = torch.zeros_like(target, dtype=torch.long)
        norm = row_norm(r)
        active = norm > target
        while host_flags(active)[0][0] and nfe < limit:
            dx, estimate, noise, taken = self._cycle(
                operator.mv, precondition, r, target, min(self.restart, limit - nfe)
            )
            x = torch.where(active.unsqueeze(1), x + dx, x)
            steps = steps + taken
            nfe += host_max(taken)
            before, norm = norm, torch.where(active, estimate, norm)
            doubtful = active & ((norm > target) | (noise > target))
            if not host_flags(doubtful)[0][0] or nfe >= limit:
                break
            r = b - operator.mv(x)
            nfe += 1
            norm = row_norm(r)
            # A cycle that gains less than a percent will not gain in the next: round-off, or a singular operator.
            active = (norm > target) & (norm < 0.99 * before)
        status = torch.where(norm <= target, Status.CONVERGED, Status.MAX_STEPS if nfe >= limit else Status.STALLED)
        status = torch.where(torch.isfinite(norm), status, Status.DIVERGED)
        return Solution(x, status, safe_divide(norm, row_norm(b)), steps, nfe)

    @staticmethod
    def _cycle(
        mv: Product, precondition: Product, r: Tensor, target: Tensor, restart: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One Arnoldi cycle from residual r: the correction, the residual norm left, its round-off, the steps."""
        arnoldi = Arnoldi(r, min(restart, r.shape[1]))
        beta = norm_left = arnoldi.start_norm
        weights = torch.zeros_like(beta).unsqueeze(1)[:, :0]
        steps = torch.zeros_like(beta, dtype=torch.long)
        active = beta > target
        for _ in range(min(restart, r.shape[1])):
            new = arnoldi.extend(mv(precondition(arnoldi.newest)))
            y, residual = _small_least_squares(arnoldi.h, beta)
            weights = torch.where(active.unsqueeze(1), y, torch.nn.functional.pad(weights, (0, 1)))
            norm_left = torch.where(active, residual, norm_left)
            steps = steps + active
            active = active & (residual > target) & (new > 0)  # new = 0 ends the Krylov space of a system
            if not host_flags(active)[0][0]:
                break
        size = torch.linalg.vector_norm(arnoldi.h, dim=(1, 2)) * row_norm(weights)
        return precondition(arnoldi.combine(weights)), norm_left, 4 * torch.finfo(r.dtype).eps * size, steps


def _small_least_squares(h: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """min || beta e1 - H y || for the (j + 1, j) Hessenberg matrix of each system: y and the residual norm."""
    q, r = torch.linalg.qr(h, mode="complete")
    rhs = beta.unsqueeze(1) * q[:, 0]
    j = h.shape[2]
    triangle = r[:, :j]
    # A zero pivot means that A maps the Krylov space into itself without solving: the direction brings nothing.
    pivots = triangle.diagonal(dim1=1, dim2=2)
    tiny = torch.finfo(h.dtype).eps * pivots.abs().amax(dim=1, keepdim=True)
    usable = pivots.abs() > tiny
    triangle = triangle + torch.diag_embed(torch.where(usable, torch.zeros_like(pivots), torch.ones_like(pivots)))
    top = torch.where(usable, rhs[:, :j], torch.zeros_like(rhs[:, :j]))
    y = torch.linalg.solve_triangular(triangle, top.unsqueeze(2), upper=True).squeeze(2)
    left = torch.where(usable, torch.zeros_like(top), rhs[:, :j])
    return y, row_norm(torch.cat([left, rhs[:, j:]], dim=1))
