"""Short recurrences, begun anew from the true residual until that meets the tolerance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..modes import host_flags
from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import row_norm, safe_divide


class Cycle(NamedTuple):
    """What one run of a recurrence has brought.

    Attributes:
        correction: to be added to x, (systems, unknowns).
        steps: taken by each system, (systems,).
        products: with A, for all systems together.
        bad: systems in which the preconditioner is not positive definite though it should be, (systems,).
    """

    correction: Tensor
    steps: Tensor
    products: int
    bad: Tensor | None = None


def refine(
    operator: LinearOperator,
    b: Tensor,
    x0: Tensor | None,
    tol: float,
    limit: int,
    cycle: Callable[[Tensor, Tensor, Tensor, int], Cycle],
) -> Solution:
    """Solve A x = b by cycles, `cycle(r, active, target, products allowed)`, each from the true residual r = b - A x.

    A recurrence updates its residual by itself, and in finite precision that drifts away from b - A x. So each
    cycle ends with one product that tells the truth, which is what is reported; a cycle that gains less than a percent
    is the last.
    """
    target = tol * row_norm(b)
    x = torch.zeros_like(b) if x0 is None else x0 + torch.zeros_like(b)
    r = b if x0 is None else b - operator.mv(x)
    nfe = int(x0 is not None)
    steps = torch.zeros_like(target, dtype=torch.long)
    norm = row_norm(r)
    active = norm > target
    bad = torch.zeros_like(active)
    while host_flags(active)[0][0] and nfe + 2 <= limit:
        done = cycle(r, active, target, limit - nfe - 1)
        bad = bad if done.bad is None else bad | done.bad
        if not done.products:  # none was allowed, or the preconditioner is bad everywhere
            active = active & ~bad
            break
        trial, steps = x + done.correction, steps + done.steps
        r = torch.where(active.unsqueeze(1), b - operator.mv(trial), r)
        nfe += done.products + 1
        before, norm = norm, row_norm(r)
        x = torch.where(torch.isfinite(norm).unsqueeze(1), trial, x)
        stopped = active & ((norm <= target) | (norm >= 0.99 * before) | bad)
        active = active & ~stopped & torch.isfinite(norm)
    status = torch.where(norm <= target, Status.CONVERGED, torch.where(active, Status.MAX_STEPS, Status.STALLED))
    status = torch.where(bad & (norm > target), Status.BAD_CURVATURE, status)
    status = torch.where(torch.isfinite(norm), status, Status.DIVERGED)
    return Solution(x, status, safe_divide(norm, row_norm(b)), steps, nfe)
