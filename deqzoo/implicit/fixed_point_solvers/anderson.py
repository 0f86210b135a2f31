"""Anderson acceleration."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..linear_solvers.base import safe_divide
from ..rows import Rows, combine, products
from .base import FixedPointSolver, Function, Method


@dataclasses.dataclass(frozen=True)
class Anderson(FixedPointSolver):
    """Anderson acceleration (type II) in difference form.

    With the last m differences dG of the residual and dZ of the iterate, the weights w minimise ||g - dG^T w|| and

        z <- z + damping g - (dZ + damping dG)^T w

    The Gram matrix dG dG^T is updated by one row a step and scaled to unit diagonal before a ridge is added, so that
    the ridge keeps its meaning while the differences shrink by orders of magnitude.

    Args:
        depth: differences kept (the Anderson depth m); 2 depth copies of the state.
        damping: the mixing parameter beta.
        ridge: added to the diagonal of the scaled Gram matrix; None: 10 eps of the dtype.

    Source: Walker, Ni, "Anderson Acceleration for Fixed-Point Iterations", 2011.

    >>> import torch
    >>> Anderson(tol=1e-6)(torch.cos, torch.tensor(1.0)).value
    tensor(0.7391)
    """

    depth: int = 6
    damping: float = 1.0
    ridge: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1:
            raise ValueError(f"Anderson needs depth >= 1, got {self.depth}")

    def method(self, g: Function, tol: float) -> Method:
        """As `FixedPointSolver.method`."""
        return _Anderson(self)


class _Anderson(Method):
    def __init__(self, options: Anderson) -> None:
        self.options = options
        self.count = 0  # differences seen; slot = count % depth is overwritten next
        self.last: tuple[Tensor, Tensor] | None = None

    def step(self, z: Tensor, g: Tensor) -> Tensor:
        depth, damping = self.options.depth, self.options.damping
        if self.last is None:
            self.last = (z, g)
            self.dg, self.moves = Rows(g, depth), Rows(g, depth)
            self.gram = g.new_zeros(g.shape[0], depth, depth)
            return z.add(g, alpha=damping)
        z_last, g_last = self.last
        slot = self.count % depth
        self.count += 1
        kept = min(self.count, depth)
        dg = g - g_last
        self.dg.put(slot, dg)
        self.moves.put(slot, (z - z_last).add(dg, alpha=damping))
        rows = self.dg.first(kept)
        column = products(rows, dg)
        self.gram[:, slot, :kept] = column
        self.gram[:, :kept, slot] = column
        weights = self._weights(self.gram[:, :kept, :kept], products(rows, g))
        self.last = (z, g)
        return z.add(g, alpha=damping) - combine(self.moves.first(kept), weights)

    def _weights(self, gram: Tensor, rhs: Tensor) -> Tensor:
        ridge = self.options.ridge if self.options.ridge is not None else 10 * torch.finfo(gram.dtype).eps
        scale = safe_divide(torch.ones_like(rhs), gram.diagonal(dim1=1, dim2=2).sqrt())
        scaled = gram * scale.unsqueeze(1) * scale.unsqueeze(2)
        scaled = scaled + ridge * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        weights, _ = torch.linalg.solve_ex(scaled, (rhs * scale).unsqueeze(2))
        return weights.squeeze(2) * scale
