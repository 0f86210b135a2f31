"""Conjugate gradients, with the curvature checked."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from ..modes import Looks, is_single
from ..operator import LinearOperator
from ..solution import Solution
from .base import ROUND_OFF, LinearSolver, dot, least_on_line, row_norm, safe_divide
from .cg_of_one import solve_one
from .refine import Cycle, refine


@dataclasses.dataclass(frozen=True)
class CG(LinearSolver):
    """Preconditioned conjugate gradients for symmetric positive definite A.

    The operator must carry the tag "positive_definite" (`argmin` sets it). A direction p with p^T A p <= 0, or not
    above its round-off as in the null space of a singular A, stops that system with the status BAD_CURVATURE
    and the best that has been reached; so does a preconditioner that is not positive definite.

    The residual of the recurrence is trusted while the round-off of b - A x, of the size eps ||A|| ||x||, stays below
    the tolerance; else, and beside a preconditioner, a last product looks at the true one. It may rise on the way.
    So where CG ends early, the result is the best on the line from the best iterate to the last one.

    Args:
        max_steps: products with A; None: ten times the number of unknowns, at least 100.

    Source: Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952; the drift of the
    residual: Greenbaum, "Estimating the Attainable Accuracy of Recursively Computed Residual Methods", 1997.

    >>> A = torch.tensor([[2.0, 1.0], [1.0, 4.0]])
    >>> CG()(LinearOperator.from_matrix(A, ["positive_definite"]), torch.tensor([[3.0, 5.0]])).value.round(decimals=4)
    tensor([[1., 1.]])
    """

    max_steps: int | None = None

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; each system is frozen when it is done."""
        if "positive_definite" not in operator.tags:
            raise ValueError(
                'CG needs an operator tagged "positive_definite"; pass tags=("positive_definite",) '
                "if it is, else use GMRES()"
            )
        limit = self.max_steps if self.max_steps is not None else max(100, 10 * b.shape[1])
        if is_single(b):
            return solve_one(operator, b, x0, tol, limit)
        return refine(operator, b, x0, tol, limit, partial(_cycle, operator), self.check_every, bounded=True)


def _cycle(operator: LinearOperator, r: Tensor, active: Tensor, target: Tensor, limit: int, looks: Looks) -> Cycle:
    """The recurrence from residual r, to the best on the line from its best iterate to its last."""
    precondition = operator.preconditioner or (lambda v: v)
    eps = torch.finfo(r.dtype).eps
    x = best = torch.zeros_like(r)
    best_r, least = r, row_norm(r)
    p = precondition(r)
    rho = square = dot(r, p)  # square: p^T M p
    largest = torch.zeros_like(rho)  # of p^T A p / p^T M p: near the largest eigenvalue of M^-1 A
    bad, steps, products = torch.zeros_like(active), torch.zeros_like(target, dtype=torch.long), 0
    while True:
        product = operator.mv(p)
        products += 1
        curvature = dot(p, product)
        largest = torch.where(active.unsqueeze(1), torch.maximum(largest, safe_divide(curvature, square)), largest)
        definite = ((curvature > ROUND_OFF * eps * largest * square) & (rho > 0)).squeeze(1)
        bad = bad | (active & ~definite & torch.isfinite(curvature + rho).squeeze(1))
        alpha = safe_divide(rho, curvature)
        reduced = r - alpha * product
        norm = row_norm(reduced)
        active = active & definite & torch.isfinite(norm)  # what is not finite is left, and seen in the true residual
        moving = active.unsqueeze(1)
        x, r = torch.where(moving, x + alpha * p, x), torch.where(moving, reduced, r)
        better = (active & (norm < least)).unsqueeze(1)
        best, best_r = torch.where(better, x, best), torch.where(better, r, best_r)
        least = torch.where(better.squeeze(1), norm, least)
        steps = steps + active
        active = active & (norm > target)
        if products >= limit or not looks.go_on(products - 1, active):
            break
        s = precondition(r)
        rho, last = dot(r, s), rho
        growth = safe_divide(rho, last)
        p, square = torch.where(moving, s + growth * p, p), rho + growth * growth * square
    best, best_r = least_on_line(best, best_r, x, r)
    noise = ROUND_OFF * eps * largest.squeeze(1) * row_norm(best)
    return Cycle(best, steps, products, bad, row_norm(best_r) + noise)
