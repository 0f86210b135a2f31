"""The discrete adjoint of a reversible method, whose steps are taken back: no states are kept.

Source: Zhuang, Dvornek, Tatikonda, Duncan, "MALI: A memory efficient and reverse accurate integrator for Neural ODEs",
2021 (for its asynchronous leapfrog).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..solution import Status
from .replay import difference
from .sweep import Sweep


class ReversibleSweep(Sweep):
    """As `Sweep`, from the state after all steps: each step is taken back by one of the opposite length."""

    def run(self, g: Tensor, *of_kept: Tensor) -> Tensor:
        """See `Sweep.run`; `status` says whether it came back to the start."""
        trajectory = self.trajectory
        if trajectory.failed is not None or not trajectory.steps:  # no way back from what is not finite
            return super().run(g, *of_kept)
        self.of_kept = {}
        y, first, u = trajectory.last, None, torch.zeros_like(g[0])
        for number in reversed(range(len(trajectory.steps))):
            before, first = self._taken_back(number, y, first)
            u = self._pull_step(number, (before, None), u, g, y)
            y = before
            if self.times.from_jump(trajectory.steps[number]):  # the step before has f before the jump
                first = None
        (start, _) = trajectory.checkpoints[0]
        found = difference(y, start, start)
        if not bool(found <= 3 * torch.finfo(y.dtype).eps ** 0.5):
            self.status = Status.STALLED
        return u + g[0]

    def _taken_back(self, number: int, y: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """The state before a step, and f there, of which the next one needs the half that is right."""
        step = self.trajectory.steps[number]
        t, h = self.times.step(step)
        self.plain.limits = self.times.limits(step)
        length = h if isinstance(h, float) else h.reshape(t.shape)
        before, stages = self.plain.step(t + length, -h, y, first)
        return before, stages.get(0)
