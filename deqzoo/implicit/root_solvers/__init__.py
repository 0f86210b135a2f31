"""Newton's method for roots and fixed points: `Newton` with the Jacobian written out, `NewtonKrylov` matrix-free."""

from .newton import Newton
from .newton_krylov import NewtonKrylov

__all__ = ["Newton", "NewtonKrylov"]
