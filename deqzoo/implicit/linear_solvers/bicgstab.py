"""BiCGSTAB: any matrix, no transposed product, the memory of a few vectors."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from ..modes import Looks
from ..operator import LinearOperator
from ..solution import Solution
from .base import LinearSolver, dot, roundoff_dominates, row_norm, safe_divide
from .refine import Cycle, refine


@dataclasses.dataclass(frozen=True)
class BiCGSTAB(LinearSolver):
    """Stabilised bi-conjugate gradients with a right preconditioner, for any regular A.

    Less memory than GMRES, but the residual may jump up, and there are matrices on which the recurrence breaks down. It
    then starts again from the best iterate, as it is when the true residual is not what the recurrence
    says; where that gains nothing, as for a rotation by a right angle, the system is STALLED. `GMRES` does not know
    these troubles.

    Args:
        max_steps: products with A; None: ten times the number of unknowns, at least 50, at most 1000.

    Source: van der Vorst, "Bi-CGSTAB: A Fast and Smoothly Converging Variant of Bi-CG", 1992.

    >>> A = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
    >>> BiCGSTAB()(LinearOperator.from_matrix(A), torch.tensor([[3.0, 4.0]])).value.round(decimals=4)
    tensor([[1., 1.]])
    """

    max_steps: int | None = None
    fewest_steps = 3  # of which the last one is the residual's

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; each system is frozen when it is done."""
        limit = self.max_steps if self.max_steps is not None else min(1000, max(50, 10 * b.shape[1]))
        return refine(operator, b, x0, tol, limit, partial(_cycle, operator), self.check_every)


def _cycle(operator: LinearOperator, r: Tensor, active: Tensor, target: Tensor, limit: int, looks: Looks) -> Cycle:
    """The recurrence from residual r to its end or breakdown; its best iterate."""
    precondition = operator.preconditioner or (lambda v: v)
    shadow, p = r, r
    x = best = torch.zeros_like(r)
    least = row_norm(r)
    rho = dot(shadow, r)
    taken = torch.zeros_like(target, dtype=torch.long)
    norm_of_a, products = torch.zeros_like(target), 0
    tiny = torch.finfo(r.dtype).eps
    while products + 2 <= limit:
        direction = precondition(p)
        image = operator.mv(direction)
        shade = dot(shadow, image)
        alpha = safe_divide(rho, shade)
        s = r - alpha * image
        correction = precondition(s)
        t = operator.mv(correction)
        products += 2
        square = dot(t, t)
        omega = safe_divide(dot(t, s), square)
        first, second = row_norm(direction), row_norm(correction)
        norm_of_a = torch.maximum(norm_of_a, safe_divide(row_norm(image), first))
        norm_of_a = torch.maximum(norm_of_a, safe_divide(square.squeeze(1).sqrt(), second))
        length = alpha.abs().squeeze(1) * first + omega.abs().squeeze(1) * second
        active = active & ~roundoff_dominates(norm_of_a, length, least)
        moving = active.unsqueeze(1)
        x = torch.where(moving, x + alpha * direction + omega * correction, x)
        r = torch.where(moving, s - omega * t, r)
        taken = taken + active
        norm = row_norm(r)
        better = active & (norm < least)
        best, least = torch.where(better.unsqueeze(1), x, best), torch.where(better, norm, least)
        rho, last = dot(shadow, r), rho
        p = torch.where(moving, r + safe_divide(rho, last) * safe_divide(alpha, omega) * (p - omega * image), p)
        broken = (omega == 0) | (rho.abs() <= tiny * dot(shadow, shadow).sqrt() * norm.unsqueeze(1))
        active = active & (norm > target) & ~broken.squeeze(1) & torch.isfinite(norm)
        if not looks.go_on(products // 2 - 1, active):
            break
    return Cycle(best, taken, products)
