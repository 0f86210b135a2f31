"""The truncated Neumann series."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..modes import Looks, host_flags
from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import LinearSolver, begin, dot, row_norm, safe_divide


@dataclasses.dataclass(frozen=True)
class Neumann(LinearSolver):
    """x = d sum_{i=0}^{k} (I - d A)^i b, the first k + 1 terms of A^-1 b, for A near the identity; d = damping.

    With the condition z - f(z) of a fixed point, I - A is the Jacobian of f and the series is the adjoint of k + 1
    steps of plain iteration, damped by d; k = 0 is the one-step (Jacobian-free) gradient. The error of the truncation
    is at most L^(k+1) / (1 - L) relative to b for a Lipschitz constant L < 1 of I - A, and d = 1. A preconditioner M^-1
    makes it x += d M^-1 (b - A x).

    Where the residual before the last term is above ||b||, as in a series that diverges, the terms before are scaled to
    the least residual, and the status is STALLED. Else the status is MAX_STEPS, or CONVERGED where that residual meets
    the tolerance already, without the last term. The residual after the last term would cost a product more, and is
    not looked at; with k = 0 none is.

    Args:
        k: products with A.
        tol: if given, k is the most: a system that meets it takes no further terms, and one that never does has failed.
        damping: d in (0, 1]; below 1 it also tames eigenvalues of I - A left of -1.

    Source: Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit Differentiation", 2020;
    damped: Geng et al., "On Training Implicit Models", 2021 (its Neumann-series phantom gradient).

    >>> A = torch.tensor([[0.5]])
    >>> Neumann(k=2)(LinearOperator.from_matrix(A), torch.tensor([[1.0]])).value
    tensor([[1.7500]])
    """

    k: int = 10
    damping: float = 1.0

    all_steps = True

    @property
    def truncated(self) -> bool:  # type: ignore[override]  # a class attribute of the others
        """Whether it stops on purpose: not where it is to meet a tolerance."""
        return self.tol is None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 0:
            raise ValueError(f"Neumann needs k >= 0 products, got {self.k}")
        if not 0 < self.damping <= 1:
            raise ValueError(f"Neumann needs damping in (0, 1], got {self.damping}")

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`. The residual reported is that before the last product, or of what is returned."""
        precondition = operator.preconditioner or (lambda v: v)
        start = begin(operator, b, x0)
        x, residual = start.x, start.r
        term = self.damping * precondition(residual)
        steps, nfe = torch.zeros_like(start.norm, dtype=torch.long), 0
        done = torch.zeros_like(start.norm, dtype=torch.bool)
        looks, all_done = Looks(self.check_every, b.device), False
        for step in range(self.k):
            x = x + term
            residual = start.b - operator.mv(x)
            steps, nfe = steps + ~done, nfe + 1
            term = self.damping * precondition(residual)
            if self.tol is not None:
                done = row_norm(residual) <= tol * start.size
                some = True
                if not torch.compiler.is_compiling() and looks.after(step):
                    some, all_done = host_flags(done)[0]
                if all_done:
                    break
                if some:
                    term = term.masked_fill(done.unsqueeze(1), 0.0)
        norm = row_norm(residual)
        reached, grown = norm <= tol * start.size, norm > start.norm
        finite = torch.isfinite(norm) & torch.isfinite(start.norm)
        # On the line from the start to x the residual is start.r - share (start.r - residual).
        overlap = dot(start.r, residual).squeeze(1)
        square, fall = start.norm**2, start.norm**2 - overlap
        share = safe_divide(fall, fall - overlap + norm**2)
        least = (square - share * fall).clamp(min=0).sqrt()
        share = torch.where(grown, share, torch.ones_like(share)).unsqueeze(1)
        term = torch.where((reached | grown).unsqueeze(1), torch.zeros_like(term), term)
        x = share * x + term if x0 is None else start.x + share * (x - start.x) + term
        x = torch.where(finite.unsqueeze(1), x, start.x)
        relative = safe_divide(torch.where(grown, least, norm), start.size)
        status = torch.where(reached, Status.CONVERGED, torch.where(grown, Status.STALLED, Status.MAX_STEPS))
        status = torch.where(finite, status, Status.DIVERGED)
        return Solution(x, status, relative, steps, nfe=nfe + start.nfe, all_converged=all_done or None)
