"""Solvers of z = f(z), one per file: `Picard` (plain, damped), `Anderson`, `Broyden`.

Of monotone problems, by operator splitting: `ForwardBackward`, `PeacemanRachford`.
"""

from .anderson import Anderson
from .base import FixedPointSolver
from .broyden import Broyden
from .forward_backward import ForwardBackward
from .peaceman_rachford import PeacemanRachford
from .picard import Picard
from .splitting import MonotoneMap

FIXED_POINT_SOLVERS: dict[str, type[FixedPointSolver]] = {"anderson": Anderson, "broyden": Broyden, "picard": Picard}
SPLITTINGS: dict[str, type[FixedPointSolver]] = {  # of monotone problems
    "forward_backward": ForwardBackward,
    "peaceman_rachford": PeacemanRachford,
}

__all__ = [
    "FIXED_POINT_SOLVERS",
    "SPLITTINGS",
    "Anderson",
    "Broyden",
    "FixedPointSolver",
    "ForwardBackward",
    "MonotoneMap",
    "PeacemanRachford",
    "Picard",
]
