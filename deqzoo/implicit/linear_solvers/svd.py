"""The pseudo-inverse, by the singular values of the matrix written out."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import LinearSolver, begin, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class SVD(LinearSolver):
    """The shortest least-squares solution A^+ b, by the singular values of A, for up to some hundred unknowns.

    It is meant for matrices that are singular on purpose: a system counts as CONVERGED where A x = b to `tol`, and as
    STALLED where b has a part that A does not reach.

    Args:
        cutoff: singular values up to this part of the largest count as 0; None: n eps.

    >>> A = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    >>> SVD()(LinearOperator.from_matrix(A), torch.tensor([[2.0, 2.0]], dtype=torch.float64)).value
    tensor([[1.0000, 1.0000]], dtype=torch.float64)
    """

    cutoff: float | None = None

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`."""
        matrix = operator.to_dense(b)
        start = begin(operator, b, None)
        sound = torch.isfinite(matrix).all(dim=2).all(dim=1)
        u, s, vh = torch.linalg.svd(torch.where(sound.reshape(-1, 1, 1), matrix, torch.zeros_like(matrix)))
        cutoff = max(b.shape[1], 1) * torch.finfo(b.dtype).eps if self.cutoff is None else self.cutoff
        inside = (u.mT @ start.b.unsqueeze(-1)).squeeze(-1)
        inside = torch.where(s > cutoff * s[:, :1], safe_divide(inside, s), 0.0)
        x = (vh.mT @ inside.unsqueeze(-1)).squeeze(-1)
        norm = row_norm(start.b - operator.mv(x))
        better = norm < start.size
        x, norm = torch.where(better.unsqueeze(1), x, torch.zeros_like(x)), torch.where(better, norm, start.size)
        if self.tol is None:
            tol = max(tol, 1e3 * torch.finfo(b.dtype).eps)
        status = torch.where(norm <= tol * start.size, Status.CONVERGED, Status.STALLED)
        status = torch.where(sound & torch.isfinite(start.size), status, Status.DIVERGED)
        return Solution(x, status, safe_divide(norm, start.size), torch.ones_like(status), b.shape[1] + 1)
