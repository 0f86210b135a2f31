"""Broyden's method with limited memory."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..linear_solvers.base import row_norm, safe_divide
from ..rows import Rows, add_combination, products
from .base import Function, Method
from .blocks import BlockSolver


@dataclasses.dataclass(frozen=True)
class Broyden(BlockSolver):
    """Broyden's first ("good") method on g(z) = f(z) - z, in compact form, from the Jacobian guess -I.

    With the last k steps S (rows s, scaled to length one) and D = S + Y, Y the changes of g, the step is

        p = g + D^T K^-1 S g,    K_ij = -s_i . y_j  for i <= j (s_i not newer),   -s_i . d_j  for i > j

    which equals k rank-one updates of the inverse Jacobian at the price of two products with stored rows and a (k, k)
    solve; memory grows with the steps taken, up to `memory` pairs, then the oldest pair is replaced.

    Args:
        memory: number of pairs kept; None: that of the steps.

    Source: Broyden, "A Class of Methods for Solving Nonlinear Simultaneous Equations", 1965; compact form: Byrd,
    Nocedal, Schnabel, "Representations of Quasi-Newton Matrices", 1994.

    >>> import torch
    >>> Broyden(tol=1e-6)(torch.cos, torch.tensor(1.0)).value
    tensor(0.7391)
    """

    memory: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory is not None and self.memory < 1:
            raise ValueError(f"Broyden needs memory >= 1 pairs, got {self.memory}")

    def method(self, g: Function, tol: float) -> Method:
        """As `FixedPointSolver.method`."""
        return _Broyden(self.memory or max(self.max_steps, 1))


class _Broyden(Method):
    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.count = 0
        self.last: tuple[Tensor, Tensor] | None = None  # (z, z + g)

    def inverse(self) -> Function | None:
        """I + D^T K^-1 S, the inverse Jacobian of the last step."""
        if self.count == 0:
            return None
        kept = self.k.shape[1]
        rows, pairs = self.s.first(kept), self.d.first(kept)
        # A system that was frozen took steps of length zero: rows and columns of zeros, which are to have no effect.
        idle = self.k.diagonal(dim1=1, dim2=2) == 0
        k = self.k + torch.diag_embed(idle.to(self.k))

        def product(v: Tensor) -> Tensor:
            weights, _ = torch.linalg.solve_ex(k, products(rows, v).unsqueeze(2))
            return add_combination(v, pairs, weights.squeeze(2))

        return product

    def step(self, z: Tensor, g: Tensor, image: Tensor) -> Tensor:
        last, self.last = self.last, (z, image)
        if last is None:
            self.s, self.d = Rows(g, self.memory), Rows(g, self.memory)
            self.k = g.new_zeros(g.shape[0], 0, 0)
            self.along = g.new_zeros(g.shape[0], 0)
            return image
        slot = self.count % self.memory
        self.count += 1
        kept = min(self.count, self.memory)
        s = self.s.put_difference(slot, z, last[0])
        d = self.d.put_difference(slot, image, last[1])  # s + y, as image = z + g
        length = row_norm(s).unsqueeze(1)
        inverse = safe_divide(torch.ones_like(length), length)
        s.mul_(inverse)
        d.mul_(inverse)
        rows, pairs = self.s.first(kept), self.d.first(kept)
        if kept > self.k.shape[1]:
            self.k = pad(self.k, (0, 1, 0, 1))
            self.along = pad(self.along, (0, 1))
        before, self.along = self.along, products(rows, g)
        self.k[:, :, slot] = (before - self.along) * inverse  # -S y = S (g before) - S g, without a look at the rows
        self.k[:, slot, :] = -products(pairs, s)
        self.k[:, slot, slot] += (length > 0).to(g).squeeze(1)  # -s.y = s.s - s.d
        weights, _ = torch.linalg.solve_ex(self.k, self.along.unsqueeze(2))
        # A singular K (a step that changed nothing) has no inverse update: then g alone, the plain step.
        regular = torch.isfinite(weights).all(dim=1, keepdim=True)
        weights = torch.where(regular, weights, torch.zeros_like(weights)).squeeze(2)
        return add_combination(image, pairs, weights)
