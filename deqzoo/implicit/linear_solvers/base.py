"""What all linear solvers share: scaling, the relative stop, and the report."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..modes import full_precision, host_flags, is_single
from ..operator import LinearOperator
from ..solution import Solution, Status

ROUND_OFF = 4  # times eps ||A|| ||x||: what the round-off of b - A x is taken for


@dataclasses.dataclass(frozen=True)
class LinearSolver:
    """Base of the linear solvers: called as `solver(operator, b, x0=None) -> Solution`.

    `b` and the result have shape (systems, unknowns). Each row is scaled by its largest entry before the solve, so that
    a cotangent of size 1e-30 (whose square underflows) is solved as well as one of size 1, and the tolerance is
    relative: ||b - A x|| <= tol ||b||, each system on its own.

    No result is worse than x = 0, or than x0 where that is better: what a singular or an inconsistent system, round-off
    or an exhausted budget leave is the best iterate, with a status that says so, and CONVERGED tells of the residual
    of the value that is returned. A row of b that is not finite is DIVERGED, and its value NaN.

    Args:
        tol: relative residual at which a system has converged; None: eps^(3/4) of the precision of
            b or, where that is lower, of the operator's products (float64 2e-12, float32 6e-6, bfloat16 3e-2).
        check_every: the host reads whether all systems are done after every N steps; None: after each one on the CPU,
            elsewhere after every sixth. A system that is done stays as it is; only `nfe` grows.
    """

    tol: float | None = None
    check_every: int | None = dataclasses.field(default=None, kw_only=True, repr=False)
    fewest_steps = 0
    all_steps = False  # whether `torch.compile` can take a solve: then it does all steps, and reads nothing on the host
    truncated = False  # a solver that stops on purpose before its tolerance does not count as a failure

    def __post_init__(self) -> None:
        if self.tol is not None and not self.tol >= 0:
            raise ValueError(f"tol must be a number >= 0, got {self.tol}")
        if self.check_every is not None and self.check_every < 1:
            raise ValueError(f"check_every must be at least 1, got {self.check_every}")
        limit = getattr(self, "max_steps", None)
        if limit is not None and limit < self.fewest_steps:
            raise ValueError(f"max_steps must be at least {self.fewest_steps}, got {limit}")

    def __call__(self, operator: LinearOperator, b: Tensor, x0: Tensor | None = None) -> Solution:
        """Solve A x = b for each row of b, starting at x0 (default zero)."""
        if b.dim() != 2:
            raise ValueError(f"b must have shape (systems, unknowns), got {tuple(b.shape)}")
        tol = default_tolerance(operator.precision or b.dtype) if self.tol is None else self.tol
        with full_precision(b.device.type):
            if b.shape[1] and is_single(b):
                solution = self._solve_one(operator, b, x0, tol)
                if solution is not None:
                    return solution
            return self._solve_scaled(operator, b, x0, tol)

    def _solve_one(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution | None:
        """A single system on the CPU, scaled by a number of Python's where that is needed; None: b is not finite.

        A seventh of the time of CG for 10 unknowns: 0.29 ms, as one row of `_solve_scaled` 0.34 ms.
        """
        if 1e-12 < torch.vdot(b[0], b[0]).item() < 1e12:  # squares of its size do as they are
            return self.solve(operator, b, x0, tol)
        largest = b.abs().amax().item()
        if not math.isfinite(largest):
            return None
        factor = largest or 1.0
        solution = self.solve(operator, b / factor, None if x0 is None else x0 / factor, tol)
        solution.value = solution.value * factor
        return solution

    def _solve_scaled(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """Each row scaled by its largest entry; rows that are not finite are marked as such."""
        largest = b.abs().amax(dim=1, keepdim=True) if b.shape[1] else b.new_ones(b.shape[0], 1)
        finite = torch.isfinite(largest)
        scale = torch.where(finite & (largest > 0), largest, torch.ones_like(largest))
        solution = self.solve(operator, b / scale, None if x0 is None else x0 / scale, tol)
        solution.value = torch.where(finite, solution.value * scale, torch.full_like(b, math.nan))
        diverged = torch.full_like(solution.status, Status.DIVERGED)
        solution.status = torch.where(finite.squeeze(1), solution.status, diverged)
        return solution

    def solve(self, operator: LinearOperator, b: Tensor, x0: Tensor | None, tol: float) -> Solution:
        """Solve for right-hand sides of magnitude one, or not finite: `begin` takes those out."""
        raise TypeError(f"{type(self).__name__} does not define solve()")


class Start(NamedTuple):
    """Where a solve begins: at x0, or at zero where that is no worse.

    Attributes:
        b: the right-hand sides, those that are not finite replaced by zero: they reach no product.
        x: (systems, unknowns).
        r: b - A x.
        norm: of r, (systems,); NaN where b is not finite: neither to be worked at, nor converged.
        size: ||b||, likewise.
        nfe: products taken.
    """

    b: Tensor
    x: Tensor
    r: Tensor
    norm: Tensor
    size: Tensor
    nfe: int


def begin(operator: LinearOperator, b: Tensor, x0: Tensor | None) -> Start:
    """The start of a solve of A x = b, by one product where an x0 is given."""
    size = row_norm(b)
    finite = torch.isfinite(size)
    b = torch.where(finite.unsqueeze(1), b, torch.zeros_like(b))
    size = torch.where(finite, size, torch.full_like(size, math.nan))
    x = torch.zeros_like(b)
    if x0 is None:
        return Start(b, x, b, size, size, 0)
    x0 = torch.where(torch.isfinite(row_norm(x0)).unsqueeze(1), x0, x)
    r = b - operator.mv(x0)
    norm = row_norm(r)
    better = norm < size
    chosen = better.unsqueeze(1)
    return Start(b, torch.where(chosen, x0, x), torch.where(chosen, r, b), torch.where(better, norm, size), size, 1)


def read_progress(active: Tensor, reached: Tensor) -> tuple[bool, bool]:
    """(some system goes on, none has failed) in one device-to-host copy; `reached` are those that have converged."""
    (going, _), (_, sound) = host_flags(active, active | reached)
    return going, sound


def least_on_line(x: Tensor, r: Tensor, x_to: Tensor, r_to: Tensor) -> tuple[Tensor, Tensor]:
    """The point between x and beyond x_to with the least residual, and that residual: no worse than either's r."""
    fall = r - r_to  # A (x_to - x)
    share = safe_divide(dot(r, fall), dot(fall, fall))
    return x + share * (x_to - x), r - share * fall


def default_tolerance(dtype: torch.dtype) -> float:
    """eps^(3/4): four digits above round-off in float32, four and a half in float64."""
    return torch.finfo(dtype).eps ** 0.75


def row_norm(x: Tensor) -> Tensor:
    """Euclidean norm of each row, (systems,)."""
    return torch.linalg.vector_norm(x, dim=1)


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Inner product of each row, (systems, 1)."""
    return (x * y).sum(dim=1, keepdim=True)


def roundoff_dominates(norm_of_a: Tensor, step: Tensor, residual: Tensor) -> Tensor:
    """Whether the round-off of A times a step of this length is more than a tenth of the residual, (systems,).

    So it is in the directions that a matrix which is singular to working precision maps to almost nothing.
    """
    return ROUND_OFF * torch.finfo(step.dtype).eps * norm_of_a * step > 0.1 * residual


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0."""
    return (a / b).masked_fill_(b == 0, 0.0)
