"""Solvers of A x = b on lazy operators.

`GMRES` for any A, `BiCGSTAB` and `NormalCG` for any A in less memory, `CG` and `MINRES` for symmetric A, by tag,
`LSMR` and `SVD` for singular A, `Neumann` truncated, `Dense` exact; `Damped` solves with A + damping I by one of these.
"""

from .base import LinearSolver
from .bicgstab import BiCGSTAB
from .cg import CG
from .damped import Damped
from .dense import Dense
from .gmres import GMRES
from .lsmr import LSMR
from .minres import MINRES
from .neumann import Neumann
from .normal_cg import NormalCG
from .svd import SVD

LINEAR_SOLVERS: dict[str, type[LinearSolver]] = {
    "bicgstab": BiCGSTAB,
    "cg": CG,
    "dense": Dense,
    "gmres": GMRES,
    "lsmr": LSMR,
    "minres": MINRES,
    "neumann": Neumann,
    "normal_cg": NormalCG,
    "svd": SVD,
}

__all__ = [
    "CG",
    "GMRES",
    "LINEAR_SOLVERS",
    "LSMR",
    "MINRES",
    "SVD",
    "BiCGSTAB",
    "Damped",
    "Dense",
    "LinearSolver",
    "Neumann",
    "NormalCG",
]
