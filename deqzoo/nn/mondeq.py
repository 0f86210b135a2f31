"""Monotone operator equilibrium networks: the layer, and image classifiers with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..implicit import EquationAdjoint, FixedPointSolver, PeacemanRachford
from ..implicit.modes import full_precision
from ..implicit.solution import OnFailure
from .deq import DEQ
from .layer import NeedsFullPrecision
from .monotone import MonotoneCell


class MonDEQ(NeedsFullPrecision, DEQ):
    """The equilibrium z* = relu(W z* + x) of a `MonotoneCell`, which exists and is unique for every weight.

    W is made of the parameters once per forward (for convolutions: its spectra), and differentiated through once. The
    adjoint system is left to the gradient's linear solver: GMRES finds the smallest residual in the space from which
    forward-backward splitting would take its iterates, at the same products with W^T.

    Args:
        cell: `MonotoneLinear`, `MonotoneConv2d`.
        solver: also `Anderson`, `Picard` and the like, which know nothing of W and may fail to converge.
        adjoint, on_failure: see `DEQ`.

    Source: Winston, Kolter, "Monotone operator equilibrium networks", 2020.

    >>> import torch
    >>> from deqzoo.nn import MonotoneLinear
    >>> mondeq = MonDEQ(MonotoneLinear(4))
    >>> z = mondeq(torch.randn(3, 4))
    >>> bool((z >= 0).all()), mondeq.solution.converged
    (True, tensor([True, True, True]))
    """

    why = "operator splitting inverts matrices, and their margin would be lost"
    default_solver: ClassVar[FixedPointSolver] = PeacemanRachford(tol=1e-3)

    def __init__(
        self,
        cell: MonotoneCell,
        *,
        solver: FixedPointSolver | str | None = None,
        adjoint: EquationAdjoint | str | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__(cell, solver=solver, adjoint=adjoint, on_failure=on_failure)

    def equation(self, z0: Any, x: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The cell, which reads its parameters in W alone; W is exact under autocast too, for the margin's sake."""
        with full_precision(x.device.type):
            return self.cell, (x, self.cell.weight(x))
