"""LSMR: least squares and singular systems by products with A and its transpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..modes import host_flags
from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import LinearSolver, begin, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class LSMR(LinearSolver):
    """The shortest least-squares solution of A x = b, whatever A: singular, inconsistent, not symmetric.

    As MINRES on the normal equations A'A x = A'b, but without squaring the round-off of A. Where A x = b has no
    solution, the status is STALLED once ||A'r|| <= tol ||A'b||, r = b - A x: x is the shortest least-squares solution.

    Args:
        max_steps: of two products each, at most; None: four times the unknowns.

    Source: Fong, Saunders, "LSMR: An Iterative Algorithm for Sparse Least-Squares Problems", 2011.

    >>> A = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    >>> LSMR()(LinearOperator.from_matrix(A), torch.tensor([[2.0, 0.0]], dtype=torch.float64)).value
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    max_steps: int | None = None

    fewest_steps = 1

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`."""
        start = begin(operator, b, x0)
        x, r, norm, nfe = start.x, start.r, start.norm, start.nfe
        left = 4 * max(b.shape[1], 1) if self.max_steps is None else self.max_steps
        target, steps = tol * start.size, torch.zeros_like(norm, dtype=torch.long)
        active, settled = norm > target, torch.zeros_like(norm, dtype=torch.bool)
        slope = tol * row_norm(operator.T.mv(start.b)).unsqueeze(1)
        while left > 0 and host_flags(active)[0][0]:  # again from the true residual, where round-off asks for it
            right = torch.where(active.unsqueeze(1), r, torch.zeros_like(r))
            found = lsmr(operator.mv, operator.T.mv, right, slope, left)
            nearer = x + found.x
            residual = start.b - operator.mv(nearer)
            size = row_norm(residual)
            better = active & (size < norm)
            x, r = torch.where(better.unsqueeze(1), nearer, x), torch.where(better.unsqueeze(1), residual, r)
            settled = settled | (active & found.reached & ~(size < 0.5 * norm))
            norm = torch.where(better, size, norm)
            steps, nfe, left = steps + found.steps, nfe + 2 * found.products + 1, left - found.products
            active = active & (norm > target) & ~settled
        status = torch.where(norm <= target, Status.CONVERGED, torch.where(settled, Status.STALLED, Status.MAX_STEPS))
        status = torch.where(torch.isfinite(norm), status, Status.DIVERGED)
        return Solution(x, status, safe_divide(norm, start.size), steps, nfe)


class LeastSquares(NamedTuple):
    """A least-squares solution x, (systems, n), whether it is one, and steps, (systems,); pairs of products taken."""

    x: Tensor
    reached: Tensor
    steps: Tensor
    products: int


def lsmr(
    mv: Callable[[Tensor], Tensor], rmv: Callable[[Tensor], Tensor], b: Tensor, target: Tensor | None, max_steps: int
) -> LeastSquares:
    """min ||A x - b|| to ||A'r|| <= target, (systems, 1), for (m, n) matrices A by their products; b: (systems, m).

    None: a thousandth of ||A'b||.
    """
    u, beta = _unit(b)
    v, alpha = _unit(rmv(u))
    first = alpha * beta
    target = 1e-3 * first if target is None else target
    x, h, h_bar = torch.zeros_like(v), v, torch.zeros_like(v)
    alpha_bar, zeta_bar, rho, rho_bar = alpha, first, torch.ones_like(alpha), torch.ones_like(alpha)
    c_bar, s_bar = torch.ones_like(alpha), torch.zeros_like(alpha)
    steps = torch.zeros_like(alpha.squeeze(1), dtype=torch.long)
    active, taken = (first > target).squeeze(1), 0
    while taken < max_steps and host_flags(active)[0][0]:
        taken += 1
        u, beta = _unit(mv(v) - alpha * u)
        v, alpha = _unit(rmv(u) - beta * v)
        rho_before, rho_bar_before = rho, rho_bar
        c, s, rho = _rotation(alpha_bar, beta)
        theta, alpha_bar = s * alpha, c * alpha
        theta_bar = s_bar * rho
        c_bar, s_bar, rho_bar = _rotation(c_bar * rho, theta)
        zeta, zeta_bar = c_bar * zeta_bar, -s_bar * zeta_bar
        h_bar = h - safe_divide(theta_bar * rho, rho_before * rho_bar_before) * h_bar
        x = torch.where(active.unsqueeze(1), x + safe_divide(zeta, rho * rho_bar) * h_bar, x)
        h = v - safe_divide(theta, rho) * h
        steps = steps + active
        active = active & (zeta_bar.abs() > target).squeeze(1)
    return LeastSquares(x, ~active, steps, taken + 1)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    size = row_norm(rows).unsqueeze(1)
    return safe_divide(rows, size.expand_as(rows)), size


def _rotation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """c, s and r of the rotation that takes (a, b) to (r, 0)."""
    r = torch.hypot(a, b)
    return torch.where(r > 0, safe_divide(a, r), 1.0), safe_divide(b, r), r
