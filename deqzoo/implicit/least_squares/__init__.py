"""Nonlinear least squares: `function.py` has `least_squares`, `solvers.py` the methods, `losses.py` robust losses,
`adjoint.py` the derivative by the matrix of Gauss and Newton."""

from .adjoint import GaussNewtonStep
from .function import least_squares
from .losses import LOSSES, Cauchy, Huber, Loss, SoftL1, Square
from .solvers import LEAST_SQUARES_SOLVERS, Dogleg, GaussNewton, LeastSquaresSolver, LevenbergMarquardt

__all__ = [
    "LEAST_SQUARES_SOLVERS",
    "LOSSES",
    "Cauchy",
    "Dogleg",
    "GaussNewton",
    "GaussNewtonStep",
    "Huber",
    "LeastSquaresSolver",
    "LevenbergMarquardt",
    "Loss",
    "SoftL1",
    "Square",
    "least_squares",
]
