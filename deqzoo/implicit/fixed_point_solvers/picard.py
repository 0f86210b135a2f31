"""Plain and damped iteration."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from .base import Function, Method
from .blocks import BlockSolver


@dataclasses.dataclass(frozen=True)
class Picard(BlockSolver):
    """Damped fixed-point iteration, z <- z + damping (f(z) - z).

    Converges linearly where f contracts; damping below 1 also tames eigenvalues of the Jacobian left of -1.

    Args:
        damping: step length in (0, 1] or beyond; 1 is plain iteration.
        compile: do `check_every` steps (None: 6) as one graph of `torch.compile`; see `BlockSolver`.

    >>> import torch
    >>> Picard(tol=1e-6)(torch.cos, torch.tensor(1.0)).value
    tensor(0.7391)
    """

    damping: float = 1.0

    def method(self, g: Function, tol: float) -> Method:
        """As `FixedPointSolver.method`."""
        return PicardMethod(self.damping)


class PicardMethod(Method):
    """z <- z + damping g."""

    def __init__(self, damping: float) -> None:
        self.damping = damping

    def step(self, z: Tensor, g: Tensor, image: Tensor) -> Tensor:
        """As `Method.step`."""
        return image if self.damping == 1.0 else z.add(g, alpha=self.damping)
