"""The optimality conditions of a quadratic program as one equation, and linear systems with its Jacobian."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..linear_solvers import Dense, LinearSolver
from ..linear_solvers.base import begin, row_norm, safe_divide
from ..modes import host_counts, in_transform
from ..operator import LinearOperator
from ..solution import Solution, Status
from .factor import ActiveSet
from .program import times

Point = tuple[Tensor, Tensor, Tensor]  # x, equality multipliers y, inequality multipliers z
_REFINEMENTS = 8


def stationarity(point: Point, rows: Tensor, q: Tensor, d: Tensor, ratios: Tensor) -> Point:
    """The gradient of the augmented Lagrangian in (x, y, z), which is zero at the solution alone:

        L = 1/2 x'Px + q'x + y'(Ax - b) + sum_i (max(t_i z_i + (Gx - h)_i, 0)^2 - (t_i z_i)^2) / (2 t_i)

    Its Jacobian is symmetric, and regular where the solution has a derivative: it sees an active inequality
    (t_i z_i > s_i) as an equality, and of the others just that their multipliers are 0.

    Args:
        rows, d: P, A and G, one under the other, and b before h.
        ratios: the t_i > 0.

    Source: Rockafellar, "The Multiplier Method of Hestenes and Powell Applied to Convex Programming", 1973.
    """
    x, y, z = point
    n, p = x.shape[-1], y.shape[-1]
    image = times(rows, x)
    off, scaled = image[..., n:] - d, ratios * z
    excess = (scaled + off[..., p:]).clamp(min=0)
    multipliers = torch.cat([y, excess / ratios], dim=-1)
    slope = image[..., :n] + q + times(rows[..., n:, :].mT, multipliers)
    return slope, off[..., :p], excess - scaled


def stacked(arguments: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(rows, q, d) of `stationarity` for (P, q, A, b, G, h), on the tape; the gradient of P comes out symmetric."""
    P, q, A, b, G, h = arguments
    matrices = [t for t in ((P + P.mT) / 2, A, G) if t.shape[-2]]
    leading = torch.broadcast_shapes(*(t.shape[:-2] for t in matrices))
    ends = torch.broadcast_shapes(b.shape[:-1], h.shape[:-1])
    rows = torch.cat([t.expand(*leading, *t.shape[-2:]) for t in matrices], dim=-2)
    return rows, q, torch.cat([t.expand(*ends, t.shape[-1]) for t in (b, h)], dim=-1)


@dataclasses.dataclass(frozen=True)
class RefinedKKT(LinearSolver):
    """Linear systems with the Jacobian M of `stationarity`, by a factorisation at hand and iterative refinement.

        x <- x + inverse(b - M x),    until ||b - M x|| <= tol ||b||

    Where that does not get there, or when just an eighth of the systems is left, `Dense` takes over, whose status tells
    of a singular M: the solution, or its multipliers, then has no derivative.

    Args:
        active: M, and nearly its inverse.
    """

    active: ActiveSet | None = None

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`."""
        if self.active is None or in_transform():  # there the factorisation is that of another level
            return Dense(self.tol).solve(operator, b, x0, tol)
        start = begin(operator, b, None)
        x, r, norm = start.x, start.r, start.norm
        target = max(tol, 1e3 * torch.finfo(b.dtype).eps) * start.size
        steps = 0
        while steps < _REFINEMENTS:
            steps += 1
            nearer = x + self.active.solve(r)
            residual = start.b - self.active.times(nearer)
            size = row_norm(residual)
            better = size < norm
            row = better.unsqueeze(1)
            x, r = torch.where(row, nearer, x), torch.where(row, residual, r)
            norm = torch.where(better, size, norm)
            reached = norm <= target
            going, done = host_counts(better & ~reached, reached)
            all_reached = done == len(b)
            if not going or 8 * done >= 7 * len(b):
                break
        status = torch.where(reached, Status.CONVERGED, Status.STALLED)
        status = torch.where(torch.isfinite(start.size), status, Status.DIVERGED)
        found = Solution(x, status, safe_divide(norm, start.size), torch.full_like(status, steps), steps)
        if not all_reached:
            self._take_over(found, start.b, (status == Status.STALLED).nonzero().squeeze(1))
        return found

    def _take_over(self, found: Solution, b: Tensor, rows: Tensor) -> None:
        """Solve the systems of some rows by `Dense`."""
        assert self.active is not None
        exact = Dense(self.tol)(LinearOperator.from_matrix(self.active.matrix(rows), ("symmetric",)), b[rows])
        found.nfe += exact.nfe
        for name in ("value", "status", "residual"):
            setattr(found, name, getattr(found, name).index_copy(0, rows, getattr(exact, name)))
