"""Krylov solvers by cycles: each starts from the true residual, and accepted where it lowers that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..modes import Looks, host_flags
from ..operator import LinearOperator
from ..solution import Solution, Status
from .base import ROUND_OFF, begin, read_progress, row_norm, safe_divide


class Cycle(NamedTuple):
    """What one run of a recurrence has brought.

    Attributes:
        correction: to be added to x, (systems, unknowns).
        steps: taken by each system, (systems,).
        products: with A, for all systems together.
        bad: systems in which the operator, or the preconditioner, is not positive definite though it should be,
            (systems,).
        bound: on the norm of the true residual: the recurrence's own and its round-off, (systems,).
    """

    correction: Tensor
    steps: Tensor
    products: int
    bad: Tensor | None = None
    bound: Tensor | None = None


def refine(
    operator: LinearOperator,
    b: Tensor,
    x0: Tensor | None,
    tol: float,
    limit: int,
    cycle: Callable[[Tensor, Tensor, Tensor, int, Looks], Cycle],
    check_every: int | None,
    bounded: bool = False,
) -> Solution:
    """Solve A x = b by cycles, `cycle(r, active, target, products allowed, looks)`, each from the true residual.

    A recurrence updates its residual by itself, and in finite precision that drifts away from b - A x. So each
    cycle ends with one product that tells the truth, which is what is reported. A cycle that does not lower it is
    dropped, and one that gains less than a percent is the last.

    Where cycles are `bounded`, that product is taken only if the bounds do not prove convergence and the limit leaves
    one. They prove nothing beside a preconditioner, whose round-off they do not know.
    """
    start = begin(operator, b, x0)
    x, r, norm, nfe = start.x, start.r, start.norm, start.nfe
    target = tol * start.size
    proof, spare = bounded and operator.preconditioner is None, 0 if bounded else 1
    steps = torch.zeros_like(norm, dtype=torch.long)
    active, lost = norm > target, ~torch.isfinite(norm)
    bad = unproven = torch.zeros_like(active)
    norm_of_a = torch.zeros_like(norm)
    looks = Looks(check_every, b.device)
    # From zero there is work to do but for b = 0, which a cycle leaves at zero.
    going, sound = (True, False) if x0 is None and looks.every > 1 else read_progress(active, norm <= target)
    while going and nfe + spare < limit:
        done = cycle(r, active, target, limit - nfe - spare, looks)
        bad = bad if done.bad is None else bad | done.bad
        if not done.products:  # the preconditioner is bad everywhere
            active = active & ~bad
            break
        trial, steps, nfe = x + done.correction, steps + done.steps, nfe + done.products
        found, truth = done.bound, r
        proven = proof and found is not None and not host_flags(active & ~(found <= target))[0][0]
        last = proven or nfe >= limit
        if found is None or not last:
            truth = start.b - operator.mv(trial)
            nfe += 1
            found = row_norm(truth)
            norm_of_a = torch.maximum(norm_of_a, safe_divide(row_norm(truth - r), row_norm(done.correction)))
        # What is less than the round-off of A times the correction is no gain: a null space gives it, at any length.
        noise = ROUND_OFF * torch.finfo(b.dtype).eps * norm_of_a * row_norm(done.correction)
        better, falls = active & (found + noise < norm), found < 0.99 * norm
        lost = lost | (active & ~torch.isfinite(found))
        x = torch.where(better.unsqueeze(1), trial, x)
        r = torch.where(better.unsqueeze(1), truth, r)
        norm = torch.where(better, found, norm)
        if done.bound is not None and last:
            going, unproven = not proven, unproven if proof else active
            break
        if nfe + spare < limit:  # else the limit may have cut the cycle short
            active = active & falls
        active = active & (norm > target) & ~bad
        going, sound = read_progress(active, norm <= target)
    reached = (norm <= target) & ~unproven
    status = torch.where(reached, Status.CONVERGED, torch.where(active, Status.MAX_STEPS, Status.STALLED))
    status = torch.where(bad & ~reached, Status.BAD_CURVATURE, status)
    status = torch.where(lost & ~reached, Status.DIVERGED, status)
    return Solution(x, status, safe_divide(norm, start.size), steps, nfe, all_converged=sound and not going)
