"""Minimisers, one per file: `GradientDescent`, `LBFGS` and `NewtonCG` with a line search, and `TrustRegion`.

With a set or a penalty: `ProximalGradient`, `MirrorDescent` (on the simplex) and `ProjectedNewton` (between bounds).
"""

from .base import Minimizer, gradient
from .constrained import ConstrainedMinimizer
from .gradient_descent import GradientDescent
from .lbfgs import LBFGS
from .mirror_descent import MirrorDescent
from .newton_cg import NewtonCG
from .projected_newton import ProjectedNewton
from .proximal_gradient import ProximalGradient
from .trust_region import TrustRegion

MINIMIZERS: dict[str, type[Minimizer]] = {
    "gradient_descent": GradientDescent,
    "lbfgs": LBFGS,
    "newton_cg": NewtonCG,
    "trust_region": TrustRegion,
}
CONSTRAINED_MINIMIZERS: dict[str, type[ConstrainedMinimizer]] = {
    "mirror_descent": MirrorDescent,
    "projected_newton": ProjectedNewton,
    "proximal_gradient": ProximalGradient,
}

__all__ = [
    "CONSTRAINED_MINIMIZERS",
    "LBFGS",
    "MINIMIZERS",
    "ConstrainedMinimizer",
    "GradientDescent",
    "Minimizer",
    "MirrorDescent",
    "NewtonCG",
    "ProjectedNewton",
    "ProximalGradient",
    "TrustRegion",
    "gradient",
]
