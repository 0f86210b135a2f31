"""Minimisers, one per file: `GradientDescent`, `LBFGS` and `NewtonCG` with a line search, and `TrustRegion`."""

from .base import Minimizer, gradient
from .gradient_descent import GradientDescent
from .lbfgs import LBFGS
from .newton_cg import NewtonCG
from .trust_region import TrustRegion

MINIMIZERS: dict[str, type[Minimizer]] = {
    "gradient_descent": GradientDescent,
    "lbfgs": LBFGS,
    "newton_cg": NewtonCG,
    "trust_region": TrustRegion,
}

__all__ = ["LBFGS", "MINIMIZERS", "GradientDescent", "Minimizer", "NewtonCG", "TrustRegion", "gradient"]
