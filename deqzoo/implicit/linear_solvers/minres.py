"""MINRES: the smallest residual in the Krylov space of a symmetric matrix, in the memory of a few vectors."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from ..modes import Looks, host_flags
from ..operator import LinearOperator
from ..solution import Solution
from .base import LinearSolver, dot, roundoff_dominates, row_norm, safe_divide
from .refine import Cycle, refine


@dataclasses.dataclass(frozen=True)
class MINRES(LinearSolver):
    """Minimal residuals for symmetric A, definite or not: min ||b - A x|| over x in x0 + K_j(A, r0).

    What CG is for positive definite A, without the need for it: a Hessian between minimum and saddle is solved as well.
    The operator must be tagged "symmetric" or "positive_definite". A preconditioner M^-1 must be positive definite (one
    that is not stops its system with the status BAD_CURVATURE); the residual is then the smallest in the norm of M^-1.

    The true residual is computed when the recurrence has ended, which starts again from there where it is too large.

    Args:
        max_steps: products with A; None: ten times the number of unknowns, at least 100.

    Source: Paige, Saunders, "Solution of Sparse Indefinite Systems of Linear Equations", 1975.

    >>> A = torch.tensor([[1.0, 2.0], [2.0, 1.0]])  # eigenvalues 3 and -1
    >>> MINRES()(LinearOperator.from_matrix(A, ["symmetric"]), torch.tensor([[5.0, 4.0]])).value.round(decimals=4)
    tensor([[1., 2.]])
    """

    max_steps: int | None = None
    fewest_steps = 2  # of which the last one is the residual's

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`; each system is frozen when it is done."""
        if not operator.symmetric:
            raise ValueError(
                'MINRES needs an operator tagged "symmetric"; pass tags=("symmetric",) if it is, else use GMRES()'
            )
        limit = self.max_steps if self.max_steps is not None else max(100, 10 * b.shape[1])
        return refine(operator, b, x0, tol, limit, partial(_cycle, operator), self.check_every)


def _cycle(operator: LinearOperator, r: Tensor, active: Tensor, target: Tensor, limit: int, looks: Looks) -> Cycle:
    lanczos = _Lanczos(operator, r)
    x, steps, products = torch.zeros_like(r), torch.zeros_like(target, dtype=torch.long), 0
    enough = torch.finfo(r.dtype).eps * lanczos.left.squeeze(1)
    active = active & ~lanczos.indefinite
    norm, norm_of_a = row_norm(r), torch.zeros_like(target)
    going = host_flags(active)[0][0]
    while going and products < limit:
        length, w, image = lanczos.step()
        products += 1
        size = row_norm(w)
        norm_of_a = torch.maximum(norm_of_a, safe_divide(row_norm(image), size))
        active = active & ~roundoff_dominates(norm_of_a, length.abs().squeeze(1) * size, norm)
        x = torch.where(active.unsqueeze(1), x + length * w, x)
        r = torch.where(active.unsqueeze(1), r - length * image, r)
        steps = steps + active
        norm = row_norm(r)
        unfinished = (norm > target) & (lanczos.left.squeeze(1).abs() > enough)
        active = active & unfinished & ~lanczos.exhausted & ~lanczos.indefinite
        going = looks.go_on(products - 1, active)
    return Cycle(x, steps, products, lanczos.indefinite)


class _Lanczos:
    """The three-term recurrence of Lanczos, its tridiagonal matrix reduced by Givens rotations as it grows.

    Attributes:
        left: the residual's norm (in that of M^-1) as the rotations know it, up to its sign, (systems, 1).
        exhausted: the Krylov space of a system cannot grow, (systems,).
        indefinite: the preconditioner of a system has shown a direction in which it is not positive, (systems,).
    """

    def __init__(self, operator: LinearOperator, r: Tensor) -> None:
        self.mv = operator.mv
        self.precondition = operator.preconditioner or (lambda v: v)
        zero = torch.zeros_like(row_norm(r)).unsqueeze(1)
        self.v_last = self.w = self.w_last = self.image = self.image_last = torch.zeros_like(r)
        self.beta = zero
        self.cosines, self.sines = (zero + 1, zero + 1), (zero, zero)  # of the last two rotations, the newer first
        self.indefinite = self.exhausted = torch.zeros_like(zero[:, 0], dtype=torch.bool)
        self.v, self.z, self.left = self._normalised(r)

    def step(self) -> tuple[Tensor, Tensor, Tensor]:
        """A step length (systems, 1), a direction w, and A w."""
        product = self.mv(self.z)
        alpha = dot(product, self.z)
        (cos, cos_last), (sin, sin_last) = self.cosines, self.sines
        first, second, third = (
            cos * alpha - cos_last * sin * self.beta,
            sin * alpha + cos_last * cos * self.beta,
            sin_last * self.beta,
        )
        v, z, beta = self._normalised(product - alpha * self.v - self.beta * self.v_last)
        # What is left at the level of round-off is no direction.
        beta = torch.where(beta > 10 * torch.finfo(beta.dtype).eps * (alpha.abs() + self.beta), beta, 0 * beta)
        pivot = torch.hypot(first, beta)
        w = safe_divide(self.z - third * self.w_last - second * self.w, pivot)
        image = safe_divide(product - third * self.image_last - second * self.image, pivot)
        self.w, self.w_last, self.image, self.image_last = w, self.w, image, self.image
        cosine, sine = safe_divide(first, pivot), safe_divide(beta, pivot)
        self.cosines, self.sines = (cosine, cos), (sine, sin)
        length, self.left = cosine * self.left, -sine * self.left
        self.v_last, self.v, self.z, self.beta = self.v, v, z, beta
        self.exhausted = (beta == 0).squeeze(1)
        return length, w, image

    def _normalised(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """v and M^-1 v, divided by beta = sqrt(v^T M^-1 v), and beta (systems, 1)."""
        z = self.precondition(v)
        square = dot(v, z)
        self.indefinite = self.indefinite | (square < 0).squeeze(1)
        beta = square.clamp(min=0).sqrt()
        return safe_divide(v, beta), safe_divide(z, beta), beta
