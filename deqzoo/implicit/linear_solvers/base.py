"""What all linear solvers share: scaling, the relative stop, and the report."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..modes import full_precision, in_transform
from ..operator import LinearOperator
from ..solution import Solution, Status


@dataclasses.dataclass(frozen=True)
class LinearSolver:
    """Base of the linear solvers: called as `solver(operator, b, x0=None) -> Solution`.

    `b` and the result have shape (systems, unknowns). Each row is scaled by its largest entry before the solve, so that
    a cotangent of size 1e-30 (whose square underflows) is solved as well as one of size 1, and the tolerance is
    relative: ||b - A x|| <= tol ||b||, each system on its own.

    Args:
        tol: relative residual at which a system has converged; None: eps^(3/4) of the precision of
            b or, where that is lower, of the operator's products (float64 2e-12, float32 6e-6, bfloat16 3e-2).
    """

    tol: float | None = None
    fewest_steps = 0
    truncated = False  # a solver that stops on purpose before its tolerance does not count as a failure

    def __post_init__(self) -> None:
        if self.tol is not None and not self.tol >= 0:
            raise ValueError(f"tol must be a number >= 0, got {self.tol}")
        limit = getattr(self, "max_steps", None)
        if limit is not None and limit < self.fewest_steps:
            raise ValueError(f"max_steps must be at least {self.fewest_steps}, got {limit}")

    def __call__(self, operator: LinearOperator, b: Tensor, x0: Tensor | None = None) -> Solution:
        """Solve A x = b for each row of b, starting at x0 (default zero)."""
        if b.dim() != 2:
            raise ValueError(f"b must have shape (systems, unknowns), got {tuple(b.shape)}")
        tol = default_tolerance(operator.precision or b.dtype) if self.tol is None else self.tol
        with full_precision(b.device.type):
            if b.shape[0] == 1 and b.shape[1] and b.device.type == "cpu" and not in_transform():
                if 1e-12 < torch.vdot(b[0], b[0]).item() < 1e12:  # squares of its size do as they are
                    return self.solve(operator, b, x0, tol)
                largest = b.abs().amax().item()
                if math.isfinite(largest):  # a single system on the CPU: the same with a scalar of Python's
                    factor = largest or 1.0
                    solution = self.solve(operator, b / factor, None if x0 is None else x0 / factor, tol)
                    solution.value = solution.value * factor
                    return solution
            scale = b.abs().amax(dim=1, keepdim=True) if b.shape[1] else b.new_ones(b.shape[0], 1)
            finite = torch.isfinite(scale)
            scale = torch.where(finite & (scale > 0), scale, torch.ones_like(scale))
            start = None if x0 is None else x0 / scale
            solution = self.solve(operator, torch.where(finite, b / scale, torch.zeros_like(b)), start, tol)
            solution.value = torch.where(finite, solution.value * scale, torch.full_like(b, math.nan))
            bad = torch.full_like(solution.status, Status.DIVERGED)
            solution.status = torch.where(finite.squeeze(1), solution.status, bad)
        return solution

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """Solve for right-hand sides of magnitude one."""
        raise TypeError(f"{type(self).__name__} does not define solve()")


def default_tolerance(dtype: torch.dtype) -> float:
    """eps^(3/4): four digits above round-off in float32, four and a half in float64."""
    return torch.finfo(dtype).eps ** 0.75


def row_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, (systems,)."""
    return torch.linalg.vector_norm(x, dim=1)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of each row, (systems, 1)."""
    return (x * y).sum(dim=1, keepdim=True)


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    zero = b == 0
    return torch.where(zero, torch.zeros_like(a), a / torch.where(zero, torch.ones_like(b), b))
