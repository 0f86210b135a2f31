"""Conjugate gradients on the normal equations."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from ..modes import Looks
from ..operator import LinearOperator
from ..solution import Solution
from .base import ROUND_OFF, LinearSolver, dot, roundoff_dominates, row_norm, safe_divide
from .refine import Cycle, refine


@dataclasses.dataclass(frozen=True)
class NormalCG(LinearSolver):
    """Conjugate gradients on A^T A x = A^T b, for any regular A whose transposed product is at hand.

    The residual ||b - A x|| never rises and a few vectors are all its memory, but the condition number is that of A
    squared, and each step takes a product with A and one with A^T. A preconditioner acts on the right,
    A M^-1 y = b, so that the residual is that of the system itself.

    Args:
        max_steps: products with A and A^T; None: twenty times the number of unknowns, at least 200.

    Source: Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952 (CGNR).

    >>> A = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    >>> NormalCG()(LinearOperator.from_matrix(A), torch.tensor([[1.0, 2.0]])).value
    tensor([[-2.,  1.]])
    """

    max_steps: int | None = None
    fewest_steps = 3  # of which the last one is the residual's

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; each system is frozen when it is done."""
        limit = self.max_steps if self.max_steps is not None else max(200, 20 * b.shape[1])
        transposed = operator.T
        return refine(operator, b, x0, tol, limit, partial(_cycle, operator, transposed), self.check_every)


def _cycle(
    operator: LinearOperator,
    transposed: LinearOperator,
    r: Tensor,
    active: Tensor,
    target: Tensor,
    limit: int,
    looks: Looks,
) -> Cycle:
    precondition = operator.preconditioner or (lambda v: v)
    precondition_back = transposed.preconditioner or (lambda v: v)
    x, steps, products = torch.zeros_like(r), torch.zeros_like(target, dtype=torch.long), 0
    p, gamma = torch.zeros_like(r), torch.zeros_like(target).unsqueeze(1)
    norm = row_norm(r)
    norm_of_a = preconditioned = torch.zeros_like(target)  # the norms of A and of A M^-1, from below
    while products + 2 <= limit:
        z = precondition_back(transposed.mv(r))
        gamma, last = dot(z, z), gamma
        p = z + safe_divide(gamma, last) * p
        direction = precondition(p)
        image = operator.mv(direction)
        products += 2
        square = dot(image, image)
        alpha = safe_divide(gamma, square)
        length, reach = row_norm(direction), square.squeeze(1).sqrt()
        stretch = norm_of_a = torch.maximum(norm_of_a, safe_divide(reach, length))
        if direction is not p:
            preconditioned = torch.maximum(preconditioned, safe_divide(reach, row_norm(p)))
            stretch = preconditioned
        # (A M^-1)^T r = 0 up to round-off: a least-squares solution of a singular system, and no more.
        solving = gamma.squeeze(1).sqrt() > ROUND_OFF * torch.finfo(r.dtype).eps * stretch * norm
        active = active & solving & ~roundoff_dominates(norm_of_a, alpha.squeeze(1) * length, norm)
        x = torch.where(active.unsqueeze(1), torch.addcmul(x, alpha, direction), x)
        r = torch.where(active.unsqueeze(1), torch.addcmul(r, alpha, image, value=-1), r)
        steps = steps + active
        norm = row_norm(r)
        active = active & (norm > target) & (square > 0).squeeze(1)
        if not looks.go_on(products // 2 - 1, active):
            break
    return Cycle(x, steps, products)
