"""A cycle of GMRES for a single system on the CPU: the small matrix is Python's numbers, a fraction of the operations.

That is worth a second copy of the recurrence, as with CG; `benchmarks/small_problems.py` measures it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..modes import Looks
from ..operator import LinearOperator
from ..rows import Rows
from .base import ROUND_OFF
from .refine import Cycle


def cycle_of_one(
    operator: LinearOperator, restart: int, r: Tensor, active: Tensor, target: Tensor, limit: int, looks: Looks
) -> Cycle:
    """What the cycle of `GMRES` does with a batch of systems."""
    precondition = operator.preconditioner or (lambda v: v)
    length = min(restart, limit, r.shape[1])
    basis, eps = Rows(r, length + 1), torch.finfo(r.dtype).eps
    beta = bound = torch.linalg.vector_norm(r).item()
    goal, weights, products = target.item(), list[float](), 0
    small, newest = Hessenberg(beta), r / beta if beta else r
    while products < length:
        basis.put(products, newest)
        w = operator.mv(precondition(newest))[0]
        products += 1
        w, column, norm = _orthogonalized(basis.first(products)[0], w)
        # What is left of w at the level of round-off is no direction.
        norm = norm if not norm <= 10 * eps * math.hypot(*column, norm) else 0.0
        y, residual = small.extend(column, norm, eps)
        # Where A is singular to working precision, y is large and its products are all round-off.
        noise = ROUND_OFF * eps * small.norm * math.hypot(*y)
        if not residual + noise >= bound:  # what is not finite is taken, to be seen
            weights, bound = y, residual + noise
        if not (residual > goal and norm > 0 and noise < beta):  # norm = 0: the Krylov space is exhausted
            break
        newest = (w / norm).unsqueeze(0)
    correction = torch.zeros_like(r)
    if weights:
        correction = (r.new_tensor(weights) @ basis.first(len(weights))[0]).unsqueeze(0)
    steps = torch.full_like(target, products, dtype=torch.long)
    return Cycle(precondition(correction), steps, products, bound=torch.full_like(target, bound))


def _orthogonalized(basis: Tensor, w: Tensor) -> tuple[Tensor, list[float], float]:
    """w less its part in the span of the rows, that part's coefficients, and the norm of what is left.

    Classical Gram-Schmidt, twice, as in `Arnoldi`.
    """
    once = torch.mv(basis, w)
    w = torch.addmv(w, basis.mT, once, alpha=-1)
    twice = torch.mv(basis, w)
    w = torch.addmv(w, basis.mT, twice, alpha=-1)
    *column, norm = torch.cat([once + twice, torch.linalg.vector_norm(w).reshape(1)]).tolist()
    return w, column, norm


class Hessenberg:
    """min || beta e1 - H y || for H upper Hessenberg, which grows by columns; by Givens rotations.

    Attributes:
        norm: of H, Frobenius.
    """

    def __init__(self, beta: float) -> None:
        self.norm = 0.0
        self.rhs = [beta]  # rotated; its last entry is what no y can lower
        self.columns: list[list[float]] = []  # of the triangle
        self.rotations: list[tuple[float, float]] = []

    def extend(self, column: list[float], below: float, eps: float) -> tuple[list[float], float]:
        """Add a column, and the entry below its diagonal. Returns y and the residual norm."""
        self.norm = math.hypot(self.norm, *column, below)
        for i, (c, s) in enumerate(self.rotations):
            column[i], column[i + 1] = c * column[i] + s * column[i + 1], c * column[i + 1] - s * column[i]
        pivot = math.hypot(column[-1], below)
        c, s = (column[-1] / pivot, below / pivot) if pivot else (1.0, 0.0)
        self.rotations.append((c, s))
        self.columns.append([*column[:-1], pivot])
        last = self.rhs.pop()
        self.rhs += [c * last, -s * last]
        return self._solve(eps)

    def _solve(self, eps: float) -> tuple[list[float], float]:
        pivots = [column[-1] for column in self.columns]
        tiny = eps * max(pivots)
        left, y = self.rhs.copy(), [0.0] * len(pivots)
        for j in reversed(range(len(pivots))):
            # A zero pivot means that A maps the Krylov space into itself without solving: the direction brings nothing.
            if pivots[j] > tiny:
                y[j] = left[j] / pivots[j]
                for i, entry in enumerate(self.columns[j]):
                    left[i] -= entry * y[j]
                left[j] = 0.0
        return y, math.hypot(*left)
