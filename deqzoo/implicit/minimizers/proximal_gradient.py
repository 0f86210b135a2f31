"""The accelerated proximal gradient method."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..constraints.trees import Regulariser
from ..fixed_point_solvers.base import Function
from ..linear_solvers.base import dot, safe_divide
from .constrained import ConstrainedMinimizer, ConstrainedSearch

_MOST_GROWTH, _MOST_FALL = 10.0, 0.8  # of the curvature in one step
_TOUCH = 1e-3  # relative: by which a curvature may be above its bound


@dataclasses.dataclass(frozen=True)
class ProximalGradient(ConstrainedMinimizer):
    """Proximal gradient descent with momentum (FISTA), a line search, and restarts; projected for a set.

        y <- prox(v - s grad f(v), s),    v = y + beta (y - y_before)

    1/s is raised where f bends more than that along a step, and follows its curvature downwards slowly. Where the
    momentum points uphill, or f + h would rise, it starts again from zero: so f + h never rises, and strong convexity
    makes the convergence linear without being known. Each system has its own s and momentum.

    Source: Beck, Teboulle, "A Fast Iterative Shrinkage-Thresholding Algorithm for Linear Inverse Problems", 2009;
    O'Donoghue, Candès, "Adaptive Restart for Accelerated Gradient Schemes", 2015.

    >>> from deqzoo.implicit import Simplex
    >>> y, c = torch.zeros(3), torch.tensor([1.5, 1.0, 0.0])
    >>> ProximalGradient()(lambda y: ((y - c) ** 2).sum(), y, constraint=Simplex()).value
    tensor([0.7500, 0.2500, 0.0000])
    """

    patience: int = 1000  # with momentum the residual falls in waves, pi times the root of the condition number long

    def descent(self, g: Function, values: list[Tensor], regulariser: Regulariser) -> ConstrainedSearch:
        """As `ConstrainedMinimizer.descent`."""
        return _ProximalGradient(values, regulariser)


class _ProximalGradient(ConstrainedSearch):
    """Evaluates f at `ahead`, where momentum leads, and then at the proximal step from there."""

    ahead: Tensor  # v, (systems, unknowns)
    ahead_slope: Tensor
    ahead_value: Tensor
    inertia: Tensor  # t of FISTA, (systems,); 1: no momentum
    looking: Tensor  # the systems whose next evaluation is at `ahead`

    def begin(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        super().begin(z, g, image)
        self.ahead, self.ahead_slope, self.ahead_value = self.point, self.slope, self.value
        self.inertia = torch.ones_like(self.value)
        self.looking = torch.zeros_like(self.accepted)

    def next_trial(self) -> Tensor:
        step = self.proximal_step(self.ahead, self.ahead_slope, self.length)
        return torch.where(self.looking.unsqueeze(1), self.ahead, step)

    def judge(self, z: Tensor, value: Tensor, slope: Tensor, sound: Tensor) -> Tensor:
        trying = ~self.looking
        step = z - self.ahead
        squared = dot(step, step).squeeze(1)
        bend = safe_divide(2 * self.gap(value, slope, step, self.ahead_value, self.ahead_slope), squared)
        curvature = 1 / self.length.squeeze(1)
        smooth = ~(bend > (1 + _TOUCH) * curvature)
        accepted = trying & smooth & sound
        plain = self.inertia == 1
        # Where the step was too long, the curvature grows; where f + h rose with no momentum to blame, too.
        steeper = torch.maximum(2 * curvature, torch.minimum(bend, _MOST_GROWTH * curvature).nan_to_num(nan=0.0))
        gentler = torch.maximum(_MOST_FALL * curvature, torch.minimum(bend, curvature))
        failed = trying & (~smooth | (~sound & plain))
        curvature = torch.where(failed, steeper, torch.where(accepted & (squared > 0), gentler, curvature))
        self.length = 1 / curvature.unsqueeze(1)
        self._look_ahead(z, value, slope, accepted, restart=trying & smooth & ~sound)
        return accepted

    def _look_ahead(self, z: Tensor, value: Tensor, slope: Tensor, accepted: Tensor, restart: Tensor) -> None:
        """From the new point z where `accepted`, from the old one where `restart`; keep what `looking` has seen."""
        move = z - self.point
        uphill = dot(self.ahead - z, move).squeeze(1) > 0
        larger = (1 + (1 + 4 * self.inertia.square()).sqrt()) / 2
        beta = torch.where(accepted & ~uphill, (self.inertia - 1) / larger, 0.0)
        arrived = self.looking & torch.isfinite(value) & torch.isfinite(slope).all(dim=1)
        back = restart | (self.looking & ~arrived)  # f is not finite ahead
        self.inertia = torch.where(accepted, torch.where(uphill, 1.0, larger), torch.where(back, 1.0, self.inertia))
        here, there = (mask.unsqueeze(1) for mask in (back, accepted))
        self.ahead = torch.where(there, z + beta.unsqueeze(1) * move, torch.where(here, self.point, self.ahead))
        known = (arrived | accepted).unsqueeze(1)  # what was evaluated; `looking` is to follow where there is momentum
        self.ahead_slope = torch.where(known, slope, torch.where(here, self.slope, self.ahead_slope))
        self.ahead_value = torch.where(arrived | accepted, value, torch.where(back, self.value, self.ahead_value))
        self.looking = accepted & (beta > 0)
