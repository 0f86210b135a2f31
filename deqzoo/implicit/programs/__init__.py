"""Programs: the least value of a function subject to equalities and inequalities.

quadratic.py         quadratic_program, linear_program
program.py           their data; scaling.py: in one size
interior_point.py    the solver; factor.py: the factorisation of its steps
kkt.py               the conditions by which the solution is differentiated
cone_program.py      cone_program, by Clarabel
cones.py             projections onto cones: second_order_cones.py, exponential_cone.py, power_cone.py, monotone.py
from_cvxpy.py        problems of CVXPY as functions; layout.py: sparse matrices
"""

from .cone_program import Clarabel, ConeSolution, cone_program
from .cones import Cones
from .from_cvxpy import from_cvxpy
from .interior_point import InteriorPoint
from .program import PrimalDual, QuadraticProgram
from .quadratic import linear_program, quadratic_program

__all__ = [
    "Clarabel",
    "ConeSolution",
    "Cones",
    "InteriorPoint",
    "PrimalDual",
    "QuadraticProgram",
    "cone_program",
    "from_cvxpy",
    "linear_program",
    "quadratic_program",
]
