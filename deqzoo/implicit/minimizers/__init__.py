"""Minimisers, one a file: `GradientDescent`, `LBFGS`, `NewtonCG`, all with a weak Wolfe line search."""

from .gradient_descent import GradientDescent
from .lbfgs import LBFGS
from .line_search import Minimizer, gradient
from .newton_cg import NewtonCG

__all__ = ["LBFGS", "GradientDescent", "Minimizer", "NewtonCG", "gradient"]
