"""The stop rule for a single system on the CPU, in Python's numbers, which take less time than tensors of one entry."""

from __future__ import annotations

import torch
from torch import Tensor

from ..solution import Solution, Status
from .judge import StopRule


class JudgeOfOne:
    """As `Judge`, of a fixed point of one system at which the host looks after each step.

    Args:
        rule: the stop rule.
        z: the start, (1, unknowns).
        finite_inputs: whether the system's inputs are finite, (1,); None: they are, or it is not known.
        trace: keep the residual of each step.

    Attributes:
        active: whether it goes on, (1,).
    """

    def __init__(self, rule: StopRule, z: Tensor, finite_inputs: Tensor | None, trace: bool) -> None:
        self.rule, self.best_z = rule, z
        self.sound = finite_inputs is None or bool(finite_inputs.item())
        self.status = Status.MAX_STEPS
        self.active = torch.ones(1, dtype=torch.bool, device=z.device)
        self.best_norm = self.least_norm = torch.inf
        self.best_scale = 1.0
        self.half_of_largest = torch.inf  # of the residual norms; until the first, no bound
        self.floor: float | None = None  # of the scale
        self.improved_at = self.last_step = 0
        self.trace: list[float] | None = [] if trace else None

    def assess(self, step: int, z: Tensor, g: Tensor, image: Tensor, host: bool) -> tuple[bool, bool]:
        """As `Judge.assess`."""
        norm = torch.linalg.vector_norm(g).item() if step or self.sound else torch.inf
        scale, reached = self._compare(norm, g, image)
        self.last_step, finite = step, norm < torch.inf
        reached = reached and finite
        if self.trace is not None:
            self.trace.append(_ratio(norm, scale))
        if reached or (finite and norm < self.best_norm):
            self.best_z, self.best_norm, self.best_scale, self.improved_at = z, norm, scale, step
        if norm < self.least_norm:
            self.least_norm, self.improved_at = norm, step
        if finite:
            self.half_of_largest = norm / 2 if step == 0 else max(self.half_of_largest, norm / 2)
        if reached:
            self.status = Status.CONVERGED
        elif not finite:
            self.status = Status.DIVERGED
        elif step - self.improved_at >= self.rule.patience:
            self.status = Status.STALLED
        active = self.status == Status.MAX_STEPS
        return active, active

    def _compare(self, norm: float, g: Tensor, image: Tensor) -> tuple[float, bool]:
        """The scale of the residual, and whether that is within the tolerance."""
        rule, scale = self.rule, 1.0
        bound = rule.tol
        if rule.stop == "rel":
            scale = torch.linalg.vector_norm(image).item()
            self.floor = rule.eps * scale if self.floor is None else self.floor
            scale = max(scale, self.floor)
            fallen = self.half_of_largest - rule.eps / 2 * scale
            bound = min(rule.tol * scale, fallen) if scale < torch.inf else -torch.inf
        if norm <= bound or not rule.atol:
            return scale, norm <= bound
        return scale, bool((g.abs() <= rule.atol + rule.tol * image.abs()).all())

    def solution(self, nfe: int) -> Solution:
        """As `Judge.solution`."""
        z = self.best_z
        residual, trace = z.new_tensor([_ratio(self.best_norm, self.best_scale)]), None
        if self.trace is not None:
            trace = z.new_tensor(self.trace).unsqueeze(1)
        status, steps = (torch.tensor([n], device=z.device) for n in (self.status.value, self.last_step))
        converged = self.status == Status.CONVERGED
        return Solution(z, status, residual, steps, nfe, trace, all_converged=converged)


def _ratio(norm: float, scale: float) -> float:
    if norm == 0:
        return norm
    return norm / scale if scale else norm * torch.inf
