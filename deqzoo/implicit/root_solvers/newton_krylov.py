"""Newton's method with GMRES inside."""

from __future__ import annotations

import dataclasses

from ..fixed_point_solvers.base import FixedPointSolver, Function, Method
from ..linear_solvers import GMRES
from .line_search import NewtonMethod


@dataclasses.dataclass(frozen=True)
class NewtonKrylov(FixedPointSolver):
    """Inexact Newton: J(z) s = -g(z) by GMRES on products with J, to a relative residual of `forcing`.

    The step is cut back as in `Newton`. Each product with J counts as one function evaluation.

    Args:
        forcing: relative residual of the inner solve; 1e-2 loses little of Newton's speed and saves most products.
        restart: Krylov vectors kept.

    Source: Knoll, Keyes, "Jacobian-free Newton-Krylov methods", 2004.

    >>> import torch
    >>> NewtonKrylov()(lambda y: y**3 - 8, torch.tensor(5.0, dtype=torch.float64), root=True).value
    tensor(2., dtype=torch.float64)
    """

    forcing: float = 1e-2
    restart: int = 30

    def method(self, g: Function, tol: float) -> Method:
        """As `FixedPointSolver.method`."""
        return NewtonMethod(g, tol, GMRES(tol=self.forcing, restart=self.restart))
