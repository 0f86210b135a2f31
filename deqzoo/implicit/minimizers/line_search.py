"""A line search for each system, along directions that a method proposes."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..linear_solvers.base import dot, safe_divide
from ..modes import host_flags
from .base import Descent

_ARMIJO, _CURVATURE = 1e-4, 0.9  # the constants of the Wolfe conditions
_MOST_TRIALS = 40  # then the step is taken if it does not raise the objective
_LEAST_CUT, _MOST_CUT = 0.1, 0.9  # of the bracket: where the interpolated trial may lie
_LEAST_GROWTH, _MOST_GROWTH = 2.0, 10.0


class Point(NamedTuple):
    """A point of each path, (systems, 1) each: the share t of it, and the objective's value and slope there."""

    t: Tensor
    value: Tensor
    slope: Tensor


class LineSearch(Descent):
    """Weak Wolfe line search with cubic interpolation, along directions that a subclass proposes.

    Where the objective's differences are round-off, its slopes alone decide (approximate Wolfe conditions).

    Sources: Lewis, Overton, "Nonsmooth optimization via quasi-Newton methods", 2013, algorithm 2.6; Hager, Zhang, "A
    New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line Search", 2005.
    """

    path: Tensor
    slope: Tensor  # at its beginning, (systems, 1), as the next
    trials: Tensor
    low: Point  # the ends of the bracket; that of `high` is at infinity while it is open
    high: Point
    searching = False

    @abstractmethod
    def direction(self, z: Tensor, descent: Tensor, accepted: Tensor) -> Tensor:
        """A descent direction at z, where `descent` is minus the gradient; `accepted` marks systems at a new point."""

    def length(self, descent: Tensor) -> Tensor:
        """The first trial along a direction, (systems, 1)."""
        return torch.ones_like(descent[:, :1])

    def next_trial(self) -> Tensor:
        """As `Descent.next_trial`: further along the present path, or the first along a new one."""
        fresh = self.accepted.unsqueeze(1)
        if host_flags(self.accepted)[0][0]:
            self._turn(fresh)
        self.trials = self.trials + 1
        self.t = torch.where(fresh, self.length(self.g), self._within_bracket())
        return self.point + self.t * self.path

    def _turn(self, fresh: Tensor) -> None:
        """A new path for the systems of the mask, (systems, 1), with its bracket open."""
        path = self.direction(self.point, self.g, fresh)
        slope = -dot(self.g, path)
        downhill = slope < 0
        path = torch.where(downhill, path, self.g)
        slope = torch.where(downhill, slope, -dot(self.g, self.g))
        zero, value = torch.zeros_like(slope), self.value.unsqueeze(1)
        low, high = Point(zero, value, slope), Point(torch.full_like(slope, torch.inf), value, slope)
        if not self.searching:
            self.searching = True
            self.path, self.slope, self.trials, self.low, self.high = path, slope, zero, low, high
            return
        self.path = torch.where(fresh, path, self.path)
        self.slope = torch.where(fresh, slope, self.slope)
        self.trials = torch.where(fresh, zero, self.trials)
        self.low, self.high = _where(fresh, low, self.low), _where(fresh, high, self.high)

    def _within_bracket(self) -> Tensor:
        """The next trial: by the cubic through both ends of the bracket, or further out where it is open."""
        low, high = self.low, self.high
        is_open = torch.isinf(high.t)
        width = torch.where(is_open, torch.zeros_like(high.t), high.t - low.t)
        cubic = _minimiser_of_cubic(low, high, width)
        cubic = torch.where(torch.isfinite(cubic), cubic, low.t + width / 2)
        inside = _clip(cubic, low.t + _LEAST_CUT * width, low.t + _MOST_CUT * width)
        # Along an open end the slopes at the start and at `low` tell where it would be zero.
        secant = low.t * safe_divide(self.slope, self.slope - low.slope)
        secant = torch.where(secant > 0, secant, torch.full_like(secant, torch.inf))
        return torch.where(is_open, _clip(secant, _LEAST_GROWTH * low.t, _MOST_GROWTH * low.t), inside)

    def judge(self, z: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """Whether the trial meets both Wolfe conditions; narrows the bracket where it does not."""
        value, trial_slope = value.unsqueeze(1), -dot(g, self.path)
        expected = self.t * self.slope
        # Near the minimum differences of the objective are round-off: a rise within it counts as a fall.
        round_off = self.within_round_off(-expected.squeeze(1), self.value - value.squeeze(1)).unsqueeze(1)
        flat = trial_slope <= (2 * _ARMIJO - 1) * self.slope
        falls = (value <= self.value.unsqueeze(1) + _ARMIJO * expected) | (round_off & flat)
        falls = falls & torch.isfinite(g).all(dim=1, keepdim=True) & self.not_above_start(value.squeeze(1)).unsqueeze(1)
        flatter = (trial_slope >= _CURVATURE * self.slope) | (self.trials >= _MOST_TRIALS)
        self._narrow(falls, flatter, Point(self.t, value, trial_slope))
        return (falls & flatter).squeeze(1)

    def _narrow(self, falls: Tensor, flatter: Tensor, trial: Point) -> None:
        """The trial becomes the lower end where the objective fell but is still steep, the upper one where it rose."""
        self.low = _where(falls & ~flatter, trial, self.low)
        self.high = _where(falls, self.high, trial)


def _minimiser_of_cubic(low: Point, high: Point, width: Tensor) -> Tensor:
    """Of the cubic with the values and slopes of both points; not finite where it has none."""
    d1 = low.slope + high.slope - 3 * safe_divide(high.value - low.value, width)
    d2 = (d1**2 - low.slope * high.slope).clamp(min=0).sqrt()
    return high.t - width * safe_divide(high.slope + d2 - d1, high.slope - low.slope + 2 * d2)


def _where(mask: Tensor, new: Point, old: Point) -> Point:
    return Point(*[torch.where(mask, a, b) for a, b in zip(new, old, strict=True)])


def _clip(x: Tensor, least: Tensor, most: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, least), most)
