"""Operator splitting: what the solvers of monotone equilibrium problems share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from .base import FixedPointSolver


@runtime_checkable
class MonotoneMap(Protocol):
    """A map f(z, *args) = prox(W z + b) in the parts that splitting needs, where b (and W) come from `args`.

    With G(z) = z - (W z + b) and prox = (I + dphi)^-1 for a convex phi, z = f(z) if and only if 0 is in G(z) + dphi(z).
    Where I - W >= m I for some m > 0, G is strongly monotone: there is one such z for each b, whatever the size of W.
    Many activations are proximal operators; ReLU is that of the indicator of z >= 0, for every alpha.
    """

    def affine(self, z: Any, *args: Any) -> Any:
        """W z + b."""

    def prox(self, v: Any, alpha: float) -> Any:
        """(I + alpha dphi)^-1 v."""

    def resolvent(self, alpha: float, *args: Any) -> Callable[[Any], Any]:
        """(I + alpha G)^-1, that is v -> (I + alpha (I - W))^-1 (v + alpha b), with its factorisation done once."""


@dataclasses.dataclass(frozen=True)
class Splitting(FixedPointSolver):
    """Base of the solvers of z = prox(W z + b) for a `MonotoneMap`.

    Args:
        alpha: step length, above 0.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"{type(self).__name__} needs a step length alpha above 0, got {self.alpha}")

    def check_problem(self, f: Any, root: bool, record: bool, compact: bool) -> None:
        """Raise an error that names the remedy where there is nothing to split, or not in the given way."""
        name = type(self).__name__
        if compact:
            raise ValueError(f"{name} makes what it needs of W and b for the whole batch: leave out compact=True")
        if root or record:
            raise TypeError(f"{name} solves fixed points, and its steps are not recorded: pass it to fixed_point")
        if not isinstance(f, MonotoneMap):
            raise TypeError(
                f"{name} splits f(z) = prox(W z + b) and needs its methods affine, prox and resolvent, which "
                f"{type(f).__name__} has not (see MonotoneMap); Anderson() takes any f"
            )
