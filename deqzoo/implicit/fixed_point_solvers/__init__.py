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

__all__ = [
    "Anderson",
    "Broyden",
    "FixedPointSolver",
    "ForwardBackward",
    "MonotoneMap",
    "PeacemanRachford",
    "Picard",
]
