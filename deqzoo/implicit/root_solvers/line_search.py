"""Newton steps with backtracking on the residual norm, each system with its own step length."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Function, Method
from ..linear_solvers import Dense, LinearSolver
from ..linear_solvers.base import row_norm
from ..modes import host_flags
from ..operator import jacobian

_SUFFICIENT = 1e-4  # the fraction of the linear decrease that a step must bring (Armijo)


class NewtonMethod(Method):
    """z <- z + t s with J(z) s = -g(z), for any linear solver of the Newton system."""

    backtracks = True
    unit_jacobian = False

    def __init__(self, g: Function, tol: float, linear_solver: LinearSolver) -> None:
        self.g, self.tol, self.linear_solver = g, tol, linear_solver
        # An inexact step may miss the slow components of the error: only at round-off it tells of a root.
        self.exact = isinstance(linear_solver, Dense)
        self.base: Tensor | None = None
        self._settled: Tensor | None = None

    def step(self, z: Tensor, g: Tensor, image: Tensor) -> Tensor:
        """The next trial: a shorter step where the residual did not fall, a new direction where it did."""
        norm = row_norm(g)
        if self.base is None:
            accept = torch.ones_like(norm, dtype=torch.bool)
            self.base, self.base_norm = z, norm
            self.direction, self.t = torch.zeros_like(z), torch.ones_like(norm)
        else:
            accept = norm <= (1 - _SUFFICIENT * self.t) * self.base_norm
        if host_flags(accept)[0][0]:
            keep = accept.unsqueeze(1)
            self.base = torch.where(keep, z, self.base)
            self.base_norm = torch.where(accept, norm, self.base_norm)
            solution = self.linear_solver(jacobian(self.g, self.base), torch.where(keep, -g, torch.zeros_like(g)))
            self.products += solution.nfe
            # A singular Jacobian gives no direction: the residual itself is the step of plain iteration.
            size = row_norm(solution.value)
            short = self.tol if self.exact else 10 * torch.finfo(z.dtype).eps
            regular = torch.isfinite(size) & (size > 0)
            self.direction = torch.where(keep, torch.where(regular.unsqueeze(1), solution.value, g), self.direction)
            self._settled = accept & regular & (size <= short * row_norm(self.base))
        # Far from the root many steps in a row are short: start the next search near the length that served.
        self.t = torch.where(accept, (4 * self.t).clamp(max=1.0), self.t / 2)
        return self.base + self.t.unsqueeze(1) * self.direction

    def settled(self) -> Tensor | None:
        """As `Method.settled`."""
        return self._settled
