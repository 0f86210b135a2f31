"""Forward-backward splitting."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..modes import eager
from ..pytree import lerp
from ..solution import Solution
from .base import Function, Method
from .picard import PicardMethod
from .splitting import Splitting


@dataclasses.dataclass(frozen=True)
class ForwardBackward(Splitting):
    """z <- prox(z - alpha G(z)), G(z) = z - (W z + b), the fixed point of a `MonotoneMap`: one product with W per step.

    It converges for 0 < alpha < 2 m / L^2, with I - W >= m I and L = ||I - W||; plain iteration is alpha = 1. The
    residual is that of the step over alpha, ||z - prox(z - alpha G(z))|| / alpha: for alpha <= 1 no smaller than
    ||z - f(z)||.

    Source: Winston, Kolter, "Monotone operator equilibrium networks", 2020, algorithm 1.

    >>> import torch
    >>> class Map:  # f(z) = relu(0.5 - z)
    ...     affine = staticmethod(lambda z: 0.5 - z)
    ...     prox = staticmethod(lambda v, alpha: v.relu())
    ...     resolvent = staticmethod(lambda alpha: lambda v: (v + 0.5 * alpha) / (1 + 2 * alpha))
    >>> ForwardBackward(alpha=0.4)(Map(), torch.tensor(0.0)).value
    tensor(0.2500)
    """

    alpha: float = 0.1

    def method(self, g: Function, tol: float) -> Method:
        """As `FixedPointSolver.method`."""
        return PicardMethod(self.alpha)

    @eager
    def __call__(
        self,
        f: Any,
        z0: Any,
        *args: Any,
        batch_dims: int = 0,
        root: bool = False,
        record: bool = False,
        compact: bool = False,
    ) -> Solution:
        """As `FixedPointSolver.__call__`, for a `MonotoneMap` f."""
        self.check_problem(f, root, record, compact)

        def stretched(z: Any, *args: Any) -> Any:
            """The splitting step, stretched by 1 / alpha; damping by alpha makes it the step again."""
            moved = f.prox(lerp(z, f.affine(z, *args), self.alpha), self.alpha)
            return lerp(z, moved, 1 / self.alpha)

        return super().__call__(stretched, z0, *args, batch_dims=batch_dims)
