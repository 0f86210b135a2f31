"""Solvers of z = f(z), one a file: `Picard` (plain, damped), `Anderson`, `Broyden`."""

from .anderson import Anderson
from .base import FixedPointSolver
from .broyden import Broyden
from .picard import Picard

__all__ = ["Anderson", "Broyden", "FixedPointSolver", "Picard"]
