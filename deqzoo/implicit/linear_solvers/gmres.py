"""GMRES: the smallest residual in the Krylov space, for any regular A."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from ..modes import Looks, is_single
from ..operator import LinearOperator
from ..solution import Solution, Status
from .arnoldi import Arnoldi
from .base import ROUND_OFF, LinearSolver, begin, row_norm, safe_divide
from .gmres_of_one import cycle_of_one
from .refine import Cycle, refine


@dataclasses.dataclass(frozen=True)
class GMRES(LinearSolver):
    """Restarted GMRES with a right preconditioner: min ||b - A x|| over x in x0 + M^-1 K_j(A M^-1, r0).

    The small least-squares problem is solved by QR at each step, which also gives the residual. The true one is looked
    at where that, with its round-off, does not show convergence: on a restart, and beside a preconditioner.

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

    @property
    def all_steps(self) -> bool:  # type: ignore[override]  # a class attribute of the others
        """Whether its products are those of one cycle: max_steps is given, and no more than restart."""
        return self.max_steps is not None and self.max_steps <= self.restart

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; each system is frozen when it is done."""
        if torch.compiler.is_compiling() and self.max_steps is not None and self.all_steps:
            return _one_cycle(operator, b, tol, min(self.max_steps, b.shape[1]))
        limit = self.max_steps if self.max_steps is not None else min(1000, max(50, 10 * b.shape[1]))
        cycle = partial(cycle_of_one if is_single(b) else _cycle, operator, self.restart)
        return refine(operator, b, x0, tol, limit, cycle, self.check_every, bounded=True)


def _cycle(
    operator: LinearOperator, restart: int, r: Tensor, active: Tensor, target: Tensor, limit: int, looks: Looks
) -> Cycle:
    """One Arnoldi cycle from residual r: of its corrections, that of the least residual, round-off included."""
    precondition = operator.preconditioner or (lambda v: v)
    length = min(restart, limit, r.shape[1])
    arnoldi = Arnoldi(r, length)
    beta = bound = arnoldi.start_norm
    weights = torch.zeros_like(beta).unsqueeze(1)[:, :0]
    steps = torch.zeros_like(beta, dtype=torch.long)
    eps, products = torch.finfo(r.dtype).eps, 0
    while products < length:
        new = arnoldi.extend(operator.mv(precondition(arnoldi.newest)))
        products += 1
        y, residual = _small_least_squares(arnoldi.h, beta)
        # Where A is singular to working precision, y is large and its products are all round-off.
        noise = ROUND_OFF * eps * torch.linalg.vector_norm(arnoldi.h, dim=(1, 2)) * row_norm(y)
        attained = residual + noise
        better = active & ~(attained >= bound)  # what is not finite is taken, to be seen
        weights = torch.where(better.unsqueeze(1), y, torch.nn.functional.pad(weights, (0, 1)))
        bound = torch.where(better, attained, bound)
        steps = steps + active
        active = active & (residual > target) & (new > 0) & (noise < beta)  # new = 0: the Krylov space is exhausted
        if not looks.go_on(products - 1, active):
            break
    return Cycle(precondition(arnoldi.combine(weights)), steps, products, bound=bound)


def _one_cycle(operator: LinearOperator, b: Tensor, tol: float, limit: int) -> Solution:
    """All products of one cycle from x = 0, for `torch.compile`."""
    start = begin(operator, b, None)
    arnoldi = Arnoldi(start.r, limit)
    for _ in range(limit):
        arnoldi.extend(operator.mv(arnoldi.newest))
    weights, residual = _small_least_squares(arnoldi.h, arnoldi.start_norm)
    status = torch.where(residual <= tol * start.size, Status.CONVERGED, Status.MAX_STEPS)
    status = torch.where(torch.isfinite(residual), status, Status.DIVERGED)
    steps = torch.full_like(status, limit)
    return Solution(arnoldi.combine(weights), status, safe_divide(residual, start.size), steps, nfe=limit)


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
