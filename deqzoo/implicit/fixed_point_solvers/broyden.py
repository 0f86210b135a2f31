"""Broyden's method with limited memory."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..linear_solvers.base import row_norm, safe_divide
from ..rows import Rows, combine, products
from .base import FixedPointSolver, Function, Method


@dataclasses.dataclass(frozen=True)
class Broyden(FixedPointSolver):
    """Broyden's first ("good") method on g(z) = f(z) - z, in compact form, from the Jacobian guess -I.

    With the last k steps S (rows s, scaled to length one) and D = S + Y, Y the changes of g, the step is

        p = g + D^T K^-1 S g,    K_ij = -s_i . y_j  for i <= j (s_i not newer),   -s_i . d_j  for i > j

    which equals k rank-one updates of the inverse Jacobian at the price of two products with stored rows and a (k, k)
    solve; memory grows with the steps taken, up to `memory` pairs, then the oldest pair is replaced.

    Args:
        memory: pairs kept; None: as many as there are steps.

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
        self.last: tuple[Tensor, Tensor] | None = None

    def step(self, z: Tensor, g: Tensor) -> Tensor:
        if self.last is None:
            self.last = (z, g)
            self.s, self.d = Rows(g, self.memory), Rows(g, self.memory)
            self.k = g.new_zeros(g.shape[0], 0, 0)
            self.sg = g[:, :0]  # S g of the last step
            return z + g
        z_last, g_last = self.last
        self.last = (z, g)
        self._add_pair(z - z_last, g, g_last)
        rows = self.s.first(self.k.shape[1])
        weights, _ = torch.linalg.solve_ex(self.k, self.sg.unsqueeze(2))
        # A singular K (a step that changed nothing) has no inverse update: then g alone, the plain step.
        regular = torch.isfinite(weights).all(dim=1, keepdim=True)
        weights = torch.where(regular, weights, torch.zeros_like(weights)).squeeze(2)
        return z + g + combine(self.d.first(rows.shape[1]), weights)

    def _add_pair(self, s: Tensor, g: Tensor, g_last: Tensor) -> None:
        slot = self.count % self.memory
        self.count += 1
        kept = min(self.count, self.memory)
        length = row_norm(s).unsqueeze(1)
        s = safe_divide(s, length)
        y = safe_divide(g - g_last, length)
        self.s.put(slot, s)
        self.d.put(slot, s + y)
        if kept > self.k.shape[1]:
            self.k = torch.nn.functional.pad(self.k, (0, 1, 0, 1))
        rows = self.s.first(kept)
        self.k[:, slot, :] = -products(self.d.first(kept), s)
        self.k[:, :, slot] = -products(rows, y)
        self.sg = products(rows, g)
