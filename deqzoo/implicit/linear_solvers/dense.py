"""The direct solver: write the matrix out, factorise it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..modes import host_flags, in_transform
from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import LinearSolver, begin, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class Dense(LinearSolver):
    """LU factorisation of A, written out by a product for each unknown: for systems of up to some hundred unknowns.

    The products are taken in one batch where the operator is a Jacobian.

    A pivot that is what cancellation has left of larger numbers, n eps of them or less, makes A suspect of being
    singular. The singular values of such an A decide: where the least is below n eps times the largest, x is the
    shortest least-squares solution, A^+ b, and the status STALLED, whether A x = b has solutions or not: there is no
    one answer. The same x is taken where such an A was not suspected, but was not solved to the tolerance, if its
    residual is the smaller one. Any other A is solved, however ill-conditioned or badly scaled.

    Args:
        tol: relative residual that CONVERGED stands for; a factorisation takes no account of it. None: eps^(3/4) of the
            dtype, and at least 1000 eps (float32 1.2e-4, float64 2e-12), which a condition of some thousands allows.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, ch. 9.

    >>> A = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
    >>> Dense()(LinearOperator.from_matrix(A), torch.tensor([[3.0, 4.0]])).value
    tensor([[1., 1.]])
    """

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; a singular matrix gives the status STALLED."""
        matrix = operator.to_dense(b)
        if in_transform():  # torch's lu_solve is wrong where A and b have different vmap axes: share them
            matrix = matrix + torch.zeros_like(b).unsqueeze(-1)
            b = b + torch.zeros_like(matrix[:, :, :1].squeeze(-1)) if b.shape[1] else b
        start = begin(LinearOperator.from_matrix(matrix), b, x0)
        lu, pivots, _ = torch.linalg.lu_factor_ex(matrix)
        step = torch.linalg.lu_solve(lu, pivots, start.r.unsqueeze(-1)).squeeze(-1)
        x, residual, better = _judge(matrix, start.x + step, start.b, start.norm)
        if self.tol is None:
            tol = max(tol, 1e3 * torch.finfo(b.dtype).eps)
        finite = torch.isfinite(lu).all(dim=2).all(dim=1) & torch.isfinite(start.norm)
        suspect = _suspect(lu) & (start.size > 0)  # x = 0 solves with any matrix where b is zero
        reached = finite & ~suspect & (torch.where(better, residual, start.norm) <= tol * start.size)
        doubted = suspect | (finite & ~reached & (start.size > 0))  # an earlier small pivot blurs those after it
        (doubtful, _), (_, sound) = host_flags(doubted, reached)
        singular = torch.zeros_like(suspect)
        if doubtful:
            step, singular = _least_squares(matrix, start.r, doubted)
            shortest, its_residual, its_better = _judge(matrix, start.x + step, start.b, start.norm)
            singular &= suspect | (its_residual < residual)
            x = torch.where(singular.unsqueeze(1), shortest, x)
            residual = torch.where(singular, its_residual, residual)
            better = torch.where(singular, its_better, better)
        x = torch.where(better.unsqueeze(1), x, start.x)
        norm = torch.where(better, residual, start.norm)
        reached = finite & ~singular & (norm <= tol * start.size)
        status = torch.where(reached, Status.CONVERGED, torch.where(finite, Status.STALLED, Status.DIVERGED))
        known = sound if sound or not doubtful else None
        relative = safe_divide(norm, start.size)
        return Solution(x, status, relative, torch.ones_like(status), b.shape[1], all_converged=known)


def _judge(matrix: Tensor, x: Tensor, b: Tensor, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, its residual norm, and whether that is below `norm`, (systems,)."""
    residual = row_norm(b - (matrix @ x.unsqueeze(-1)).squeeze(-1))
    return x, residual, residual < norm


def _suspect(lu: Tensor) -> Tensor:
    """Whether a pivot u_ii of (systems, n, n) is no more than round-off of sum_k |l_ik| |u_ki|, (systems,).

    That sum is what the pivot is left of. Scaling rows and columns changes both alike.
    """
    n = lu.shape[-1]
    pivots = lu.diagonal(dim1=1, dim2=2).abs()
    terms = (lu.tril(-1).abs() * lu.triu().mT.abs()).sum(dim=2) + pivots
    return (pivots <= 10 * n * torch.finfo(lu.dtype).eps * terms).any(dim=1)


def _least_squares(matrix: Tensor, b: Tensor, doubted: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest least-squares solution by the singular values, and which of the doubted are singular."""
    n = matrix.shape[-1]
    eye = torch.eye(n, dtype=matrix.dtype, device=matrix.device)
    # Of the others, which may not even be finite, nothing is asked.
    u, s, vh = torch.linalg.svd(torch.where(doubted.reshape(-1, 1, 1), matrix, eye))
    floor = n * torch.finfo(s.dtype).eps * s[:, :1]
    inside = torch.where(s > floor, (u.mT @ b.unsqueeze(-1)).squeeze(-1) / s, torch.zeros_like(s))
    return (vh.mT @ inside.unsqueeze(-1)).squeeze(-1), doubted & (s <= floor).any(dim=1)
