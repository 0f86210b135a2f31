"""Which systems are done, and the best iterate of each: the stop rule of the fixed-point and root solvers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..linear_solvers.base import row_norm
from ..modes import host_counts, host_flags, in_transform
from ..rows import select
from ..solution import Solution, Status

if TYPE_CHECKING:
    from .base import FixedPointSolver


class Judge:
    """Status, best iterate and residual of each system, all on the device; `where`, so that no NaN leaks through."""

    def __init__(
        self,
        options: FixedPointSolver,
        tol: float,
        precision: torch.dtype,
        z: Tensor,
        terms: Tensor | None,
        finite: Tensor | None,
    ) -> None:
        self.options, self.tol, self.terms, self.finite_inputs = options, tol, terms, finite
        self.eps = torch.finfo(precision).eps
        like = z[:, :0].sum(dim=1)  # zeros (systems,), batched as z is
        self.best_z = z
        self.best_scale = torch.ones_like(like)  # the residual of best_z is best_norm / best_scale
        self.best_norm = self.least_norm = torch.full_like(like, torch.inf)
        self.active = torch.ones_like(like, dtype=torch.bool)
        self.all_active = True  # as far as the host knows; likewise the next two
        self.all_converged = False
        self.status = torch.full_like(like, Status.MAX_STEPS, dtype=torch.long)
        self.steps = torch.zeros_like(like, dtype=torch.long)
        self.improved_at = torch.zeros_like(self.steps)
        self.all_improved_at = self.looked = 0
        self.nested = in_transform()
        # Beside iterates that run away a residual looks small, and is lost in rounding: it is to have fallen as well.
        self.falls = terms is None and options.stop == "rel"
        self.half_of_largest = torch.full_like(like, torch.inf)  # of the residual norms; until the first, no bound
        self.floor: Tensor | None = None
        self.most: Tensor | None = None  # of the scale of an equation
        self.trace: list[Tensor] = []

    def scale_and_target(self, g: Tensor, image: Tensor) -> tuple[Tensor, Tensor | float]:
        """What the stop rule divides the norm of g by, (systems,), and the norm at which a system has converged."""
        if self.options.stop == "abs":
            return self.best_scale, self.tol
        if self.terms is None:
            scale = row_norm(image)
            # At a fixed point at zero no ratio to ||f(z)|| falls: there the first one, times eps, is the scale.
            self.floor = self.eps * scale if self.floor is None else self.floor
            scale = torch.maximum(scale, self.floor)
            return scale, self.tol * scale
        size = g.abs()
        self.most = row_norm(self.terms).unsqueeze(1) if self.most is None else self.most
        self.terms = torch.maximum(self.terms, torch.minimum(size.nan_to_num(nan=0.0), self.most))
        reached = (size <= self.tol * self.terms).all(dim=1)  # each equation by its own scale
        return row_norm(self.terms), torch.where(reached, torch.inf, -torch.inf).to(g)

    def look(self, step: int, z: Tensor, g: Tensor, image: Tensor, host: bool) -> tuple[bool, bool]:
        """Judge iterate number `step`. Returns (some system is active, all are), as far as the host looks."""
        values, images = (x.detach() if x.requires_grad else x for x in (g, image))
        norm = row_norm(values)
        if step == 0 and self.finite_inputs is not None:
            norm = torch.where(self.finite_inputs, norm, torch.inf)  # no residual tells of what a tanh has hidden
        scale, target = self.scale_and_target(values, images)
        if self.options.trace:
            self.trace.append(ratio(norm, scale))
        if self.falls:
            target = torch.minimum(target, self.half_of_largest.sub(scale, alpha=self.eps / 2))  # type: ignore[arg-type]
        patient = step - self.all_improved_at < self.options.patience  # none can have stalled
        flags: tuple[bool, bool] | None = None
        self.looked, self.all_converged = step, False
        finite = norm < torch.inf
        reached = norm <= target
        if self.options.atol:
            parts = images.abs() if self.terms is None else self.terms
            reached = reached | (values.abs() <= self.options.atol + self.tol * parts).all(dim=1)
        reached = reached & finite
        if host and patient and self.all_active and not self.nested:
            done, possible, better = host_counts(reached, finite, norm < self.best_norm)
            if done == 0 and possible == better == len(norm) > 0:  # the common step: all go on from a new best
                self.best_z, self.best_scale = z, scale
                self.best_norm = self.least_norm = norm
                self.all_improved_at = step
                if step == 0:
                    self.half_of_largest = norm / 2
                return True, True
            flags = possible > done, possible - done == len(norm)
            self.all_converged = done == len(norm)
        # What has converged is frozen at its best; what has diverged or stalled is frozen elsewhere.
        at_best = reached | ((norm < self.best_norm) & finite & self.active)
        active = self.active & ~reached & finite
        improved_at = self.improved_at.clamp(min=self.all_improved_at)
        if not patient:
            active = active & (at_best | (norm < self.least_norm) | (step - improved_at < self.options.patience))
        improves = self.active & at_best
        self.best_z = select(improves, z, self.best_z)
        self.best_norm = torch.where(improves, norm, self.best_norm)
        self.best_scale = torch.where(improves, scale, self.best_scale)
        self.improved_at = improved_at.masked_fill(improves | (norm < self.least_norm), step)
        self.least_norm = torch.minimum(self.least_norm, torch.where(finite, norm, self.least_norm))
        half = torch.where(finite, norm / 2, 0.0)
        self.half_of_largest = half if step == 0 else torch.maximum(self.half_of_largest, half)
        code = torch.where(reached, Status.CONVERGED, torch.where(finite, Status.STALLED, Status.DIVERGED))
        self.status = torch.where(self.active & ~active, code, self.status)
        self.steps = self.steps.masked_fill(self.active, step)
        self.active = active
        if host and flags is None:
            flags, (_, self.all_converged) = host_flags(active, self.status == Status.CONVERGED)
        self.all_active = flags is not None and flags[1]
        return flags if flags is not None else (True, False)

    def solution(self, nfe: int) -> Solution:
        """What a solve that took `nfe` evaluations returns."""
        trace = torch.stack(self.trace) if self.options.trace else None
        steps = self.steps.masked_fill(self.active, self.looked)
        residual = ratio(self.best_norm, self.best_scale)
        return Solution(self.best_z, self.status, residual, steps, nfe, trace, all_converged=self.all_converged)


def ratio(norm: Tensor, scale: Tensor) -> Tensor:
    """norm / scale, 0 where the norm is 0."""
    return torch.where(norm == 0, norm, norm / scale)
