"""Anderson acceleration."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..rows import Rows, add_combination
from .base import Function, Method
from .blocks import BlockSolver
from .gram import gram_matrix


@dataclasses.dataclass(frozen=True)
class Anderson(BlockSolver):
    """Anderson acceleration (type II) in difference form.

    With the last m differences dG of the residual and dZ of the iterate, the weights w minimise ||g - dG^T w|| and

        z <- z + damping g - (dZ + damping dG)^T w

    The Gram matrix dG dG^T is updated by one row per step and scaled to unit diagonal before a ridge is added, so that
    the ridge keeps its meaning while the differences shrink by orders of magnitude.

    Args:
        depth: differences kept (the Anderson depth m); 2 depth copies of the state.
        damping: the mixing parameter beta.
        ridge: added to the diagonal of the scaled Gram matrix; None: 10 eps of the dtype.
        compile: do `check_every` steps (None: 6) as one graph of `torch.compile`; see `BlockSolver`.

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
        depth, damping, ridge = self.options.depth, self.options.damping, self.options.ridge
        mixed = image if damping == 1.0 else z.add(g, alpha=damping)
        last, self.last = self.last, (mixed, g)
        if last is None:
            self.dg, self.dmixed = Rows(g, depth), Rows(g, depth)
            self.gram = gram_matrix(g, depth, 10 * torch.finfo(g.dtype).eps if ridge is None else ridge)
            return mixed
        slot = self.count % depth
        self.count += 1
        kept = min(self.count, depth)
        self.dmixed.put_difference(slot, mixed, last[0])
        self.dg.put_difference(slot, g, last[1])
        weights = self.gram.weights(self.dg.first(kept), slot, g)
        return add_combination(mixed, self.dmixed.first(kept), weights, alpha=-1)
