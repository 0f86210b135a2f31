"""Anderson acceleration."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..rows import Rows, add_combination, products
from .base import FixedPointSolver, Function, Method


@dataclasses.dataclass(frozen=True)
class Anderson(FixedPointSolver):
    """Anderson acceleration (type II) in difference form.

    With the last m differences dG of the residual and dZ of the iterate, the weights w minimise ||g - dG^T w|| and

        z <- z + damping g - (dZ + damping dG)^T w

    The Gram matrix dG dG^T is updated by one row per step and scaled to unit diagonal before a ridge is added, so that
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
        self.last: tuple[Tensor, Tensor] | None = None  # (z + damping g, g)

    def step(self, z: Tensor, g: Tensor, image: Tensor) -> Tensor:
        depth, damping = self.options.depth, self.options.damping
        mixed = image if damping == 1.0 else z.add(g, alpha=damping)
        last, self.last = self.last, (mixed, g)
        if last is None:
            self.dg, self.dmixed = Rows(g, depth), Rows(g, depth)
            self.gram = g.new_zeros(g.shape[0], depth, depth)
            self.against_last = g.new_zeros(g.shape[0], depth)
            return mixed
        slot = self.count % depth
        self.count += 1
        kept = min(self.count, depth)
        self.dmixed.put_difference(slot, mixed, last[0])
        dg = self.dg.put_difference(slot, g, last[1])
        against = products(self.dg.first(kept), g)
        column = against - self.against_last[:, :kept]  # <dG, g - last g>, without a second pass over the history
        column[:, slot] = products(dg.unsqueeze(1), dg).squeeze(1)
        self.against_last[:, :kept] = against
        self.gram[:, slot, :kept] = column
        self.gram[:, :kept, slot] = column
        weights = self._weights(self.gram[:, :kept, :kept], against)
        return add_combination(mixed, self.dmixed.first(kept), weights, alpha=-1)

    def _weights(self, gram: Tensor, rhs: Tensor) -> Tensor:
        ridge = self.options.ridge if self.options.ridge is not None else 10 * torch.finfo(gram.dtype).eps
        scale = gram.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(gram.dtype).tiny).rsqrt()
        scaled = gram * scale.unsqueeze(1) * scale.unsqueeze(2)
        scaled.diagonal(dim1=1, dim2=2).add_(ridge)
        weights, _ = torch.linalg.solve_ex(scaled, (rhs * scale).unsqueeze(2))
        return weights.squeeze(2) * scale
