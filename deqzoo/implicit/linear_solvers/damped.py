"""Damping: a linear solver for A + damping I."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ..operator import LinearOperator
from ..solution import Solution
from .base import LinearSolver
from .cg import CG


@dataclasses.dataclass(frozen=True)
class Damped(LinearSolver):
    """Solves (A + damping I) x = b in place of A x = b, by another solver (Tikhonov, Levenberg).

    Where the Hessian at an inexact minimum has eigenvalues near or below zero, -A^-1 b is no longer what a small change
    of the objective does to the minimiser; the damped solution changes little along such directions. Residual and
    status are those of the damped system. The bias is damping / (eigenvalue + damping) in each eigendirection.

    Args:
        tol, check_every: of `solver`, where it has none of its own.
        solver: `CG()` by default.
        damping: at least 0; no smaller than minus the least eigenvalue, if CG is to work.

    Source: Levenberg, "A Method for the Solution of Certain Non-Linear Problems in Least Squares", 1944.

    >>> import torch
    >>> A = LinearOperator.from_matrix(torch.tensor([[1.0, 0.0], [0.0, -0.5]]), ["positive_definite"])
    >>> Damped(damping=1.0)(A, torch.tensor([[2.0, 1.0]])).value.round(decimals=4)
    tensor([[1., 2.]])
    """

    tol: float | None = dataclasses.field(default=None, kw_only=True)
    solver: LinearSolver = dataclasses.field(default_factory=CG)
    damping: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.damping >= 0:
            raise ValueError(f"Damped needs damping >= 0, got {self.damping}")

    @property
    def truncated(self) -> bool:  # type: ignore[override]  # a class attribute of the others
        """As of the solver inside."""
        return self.solver.truncated

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """As `LinearSolver.solve`."""
        tol, solver = tol if self.solver.tol is None else self.solver.tol, self.solver
        if solver.check_every is None:
            solver = dataclasses.replace(solver, check_every=self.check_every)
        return solver.solve(operator.damped(self.damping), b, x0, tol)
