"""Newton steps with backtracking on the residual norm, each system with its own step length."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Function, Method
from ..linear_solvers import LinearSolver
from ..linear_solvers.base import row_norm
from ..modes import host_flags
from ..operator import jacobian

_SUFFICIENT = 1e-4  # the fraction of the linear decrease that a step must bring (Armijo)
_SHORTEST = 2.0**-10  # a step this short is taken whatever it brings


class NewtonMethod(Method):
    """z <- z + t s with J(z) s = -g(z), for any linear solver of the Newton system."""

    backtracks = True

    def __init__(self, g: Function, tol: float, linear_solver: LinearSolver) -> None:
        self.g, self.tol, self.linear_solver = g, tol, linear_solver
        self.base: Tensor | None = None
        self._settled: Tensor | None = None

    def step(self, z: Tensor, g: Tensor) -> Tensor:
        norm = row_norm(g)
        if self.base is None:
            accept = torch.ones_like(norm, dtype=torch.bool)
            self.base, self.base_norm = z, norm
            self.direction, self.t = torch.zeros_like(z), torch.ones_like(norm)
        else:
            falls = norm <= (1 - _SUFFICIENT * self.t) * self.base_norm
            accept = torch.isfinite(norm) & (falls | (self.t <= _SHORTEST))
        if host_flags(accept)[0][0]:
            keep = accept.unsqueeze(1)
            self.base = torch.where(keep, z, self.base)
            self.base_norm = torch.where(accept, norm, self.base_norm)
            solution = self.linear_solver(jacobian(self.g, self.base), torch.where(keep, -g, torch.zeros_like(g)))
            self.products += solution.nfe
            # A singular Jacobian gives no direction: the residual itself is the step of plain iteration.
            newton = torch.where(torch.isfinite(solution.value).all(dim=1, keepdim=True), solution.value, g)
            self.direction = torch.where(keep, newton, self.direction)
            self._settled = accept & (row_norm(self.direction) <= self.tol * row_norm(self.base))
        self.t = torch.where(accept, torch.ones_like(self.t), self.t / 2)
        return self.base + self.t.unsqueeze(1) * self.direction

    def settled(self) -> Tensor | None:
        return self._settled
