"""Convex sets and penalties, one family per file.

projections.py, proximal.py     the functions: Euclidean projections, proximal operators
sets.py, penalties.py           the same as objects with parameters, for `argmin`
transport_polytope.py           a projection by a Newton method
total_variation.py              the proximal operator of total variation, exact
blocks.py, trees.py             sums and means over blocks of neighbours; a set or penalty for each tensor of a pytree
matrix_abs.py                   the absolute value of a symmetric matrix, differentiable where eigenvalues are equal
parameters.py                   numbers or tensors
"""

from . import projections, proximal
from .penalties import L1, ElasticNet, GroupLasso, L2Norm, NuclearNorm, Penalty, TotalVariation
from .sets import (
    AffineSet,
    Bounds,
    Box,
    Constraint,
    HalfSpace,
    Hyperplane,
    L1Ball,
    L2Ball,
    LInfBall,
    NonNegative,
    SecondOrderCone,
    SemidefiniteCone,
    Simplex,
    TransportPolytope,
)

__all__ = [
    "L1",
    "AffineSet",
    "Bounds",
    "Box",
    "Constraint",
    "ElasticNet",
    "GroupLasso",
    "HalfSpace",
    "Hyperplane",
    "L1Ball",
    "L2Ball",
    "L2Norm",
    "LInfBall",
    "NonNegative",
    "NuclearNorm",
    "Penalty",
    "SecondOrderCone",
    "SemidefiniteCone",
    "Simplex",
    "TotalVariation",
    "TransportPolytope",
    "projections",
    "proximal",
]
