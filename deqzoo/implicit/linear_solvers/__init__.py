"""Solvers of A x = b on lazy operators: `GMRES` for any A, `CG` by tag, `Neumann` truncated, `Dense` exact."""

from .base import LinearSolver
from .cg import CG
from .dense import Dense
from .gmres import GMRES
from .neumann import Neumann

__all__ = ["CG", "GMRES", "Dense", "LinearSolver", "Neumann"]
