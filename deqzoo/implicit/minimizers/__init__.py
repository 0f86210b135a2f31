"""Minimisers, one per file: `GradientDescent`, `LBFGS` and `NewtonCG` with a line search, and `TrustRegion`."""

from .base import Minimizer, gradient
from .gradient_descent import GradientDescent
from .lbfgs import LBFGS
from .newton_cg import NewtonCG
from .trust_region import TrustRegion

__all__ = ["LBFGS", "GradientDescent", "Minimizer", "NewtonCG", "TrustRegion", "gradient"]
