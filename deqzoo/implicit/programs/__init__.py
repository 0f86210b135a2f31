"""Programs: the least value of a function subject to equalities and inequalities.

`quadratic.py` has the functions; `program.py` the data, `interior_point.py` the solver, `kkt.py` the conditions by
which the solution is differentiated.
"""

from .interior_point import InteriorPoint
from .program import PrimalDual, QuadraticProgram
from .quadratic import linear_program, quadratic_program

__all__ = ["InteriorPoint", "PrimalDual", "QuadraticProgram", "linear_program", "quadratic_program"]
