"""Newton's method for roots and fixed points: `Newton` with the Jacobian written out, `NewtonKrylov` matrix-free.

`Bisection` and `Chandrupatla` for roots of one unknown, between two ends.
"""

from ..fixed_point_solvers import FixedPointSolver
from .bracketing import Bisection, BracketingSolver, Chandrupatla
from .newton import Newton
from .newton_krylov import NewtonKrylov

ROOT_SOLVERS: dict[str, type[FixedPointSolver]] = {"newton": Newton, "newton_krylov": NewtonKrylov}

__all__ = ["ROOT_SOLVERS", "Bisection", "BracketingSolver", "Chandrupatla", "Newton", "NewtonKrylov"]
