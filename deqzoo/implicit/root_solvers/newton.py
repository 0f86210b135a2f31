"""Newton's method with a dense Jacobian."""

from __future__ import annotations

import dataclasses

from ..fixed_point_solvers.base import FixedPointSolver, Function, Method
from ..linear_solvers import Dense
from .line_search import NewtonMethod


@dataclasses.dataclass(frozen=True)
class Newton(FixedPointSolver):
    """Newton's method, J(z) s = -g(z), z <- z + t s, the Jacobian of each system written out.

    t is halved while the residual does not fall enough (Armijo, 1e-4), so that it also converges from afar. A system
    has converged as well when a full step is shorter than tol ||z||. For systems of up to some hundred unknowns.

    Source: Dennis, Schnabel, "Numerical Methods for Unconstrained Optimization and Nonlinear Equations", 1983, ch. 6.

    >>> import torch
    >>> Newton()(lambda y: y**3 - 8, torch.tensor(5.0, dtype=torch.float64), root=True).value
    tensor(2., dtype=torch.float64)
    """

    def method(self, g: Function, tol: float) -> Method:
        """As `FixedPointSolver.method`."""
        return NewtonMethod(g, tol, Dense())
