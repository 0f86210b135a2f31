"""A line search for each system, along directions that a method proposes."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ..linear_solvers.base import dot, safe_divide
from ..modes import host_flags
from .base import Descent

_ARMIJO, _CURVATURE = 1e-4, 0.9  # the constants of the Wolfe conditions
_MOST_TRIALS = 40  # then the step is taken if it does not raise the objective
_LEAST_CUT, _MOST_CUT = 0.1, 0.9  # of the bracket: where the interpolated trial may lie
_LEAST_GROWTH, _MOST_GROWTH = 2.0, 10.0


class LineSearch(Descent):
    """Weak Wolfe line search with cubic interpolation, along directions that a subclass proposes.

    Where the objective's differences are round-off, its slopes alone decide (approximate Wolfe conditions).

    Sources: Lewis, Overton, "Nonsmooth optimization via quasi-Newton methods", 2013, algorithm 2.6; Hager, Zhang, "A
    New Conjugate Gradient Method with Guaranteed Descent and an Efficient Line Search", 2005.
    """

    path: Tensor
    slope: Tensor  # at its beginning, (systems, 1), as the next
    trials: Tensor
    low: tuple[Tensor, ...]  # t, value and slope at the lower end of the bracket
    high: tuple[Tensor, ...]
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
        self.t = torch.where(fresh, self.length(self.g), self._next())
        return self.point + self.t * self.path

    def _turn(self, fresh: Tensor) -> None:
        """A new path for the systems of the mask, (systems, 1), with its bracket open."""
        path = self.direction(self.point, self.g, fresh)
        slope = -dot(self.g, path)
        downhill = slope < 0
        path = torch.where(downhill, path, self.g)
        slope = torch.where(downhill, slope, -dot(self.g, self.g))
        zero, value = torch.zeros_like(slope), self.value.unsqueeze(1)
        state = [path, slope, zero, zero, value, slope, torch.full_like(slope, torch.inf), value, slope]
        if self.searching:
            before = [self.path, self.slope, self.trials, *self.low, *self.high]
            state = [torch.where(fresh, new, old) for new, old in zip(state, before, strict=True)]
        self.searching = True
        self.path, self.slope, self.trials = state[:3]
        self.low, self.high = tuple(state[3:6]), tuple(state[6:])

    def _next(self) -> Tensor:
        """The minimiser of the cubic through both ends of the bracket, or further out where it is open."""
        (a, fa, da), (b, fb, db) = self.low, self.high
        open_end = torch.isinf(b)
        width = torch.where(open_end, torch.zeros_like(b), b - a)
        d1 = da + db - 3 * safe_divide(fb - fa, width)
        d2 = (d1**2 - da * db).clamp(min=0).sqrt()
        cubic = b - width * safe_divide(db + d2 - d1, db - da + 2 * d2)
        middle = a + width / 2
        cubic = torch.where(torch.isfinite(cubic), cubic, middle)
        inside = torch.minimum(torch.maximum(cubic, a + _LEAST_CUT * width), a + _MOST_CUT * width)
        # Along an open end the slopes at the start and at `low` tell where it would be zero.
        secant = a * safe_divide(self.slope, self.slope - da)
        secant = torch.where(secant > 0, secant, torch.full_like(a, torch.inf))
        further = torch.minimum(torch.maximum(secant, _LEAST_GROWTH * a), _MOST_GROWTH * a)
        return torch.where(open_end, further, inside)

    def judge(self, z: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """Whether the trial meets both Wolfe conditions; narrows the bracket where it does not."""
        value, trial_slope = value.unsqueeze(1), -dot(g, self.path)
        expected = self.t * self.slope
        # Near the minimum differences of the objective are round-off: a rise within it counts as a fall.
        blind = self.blind(-expected.squeeze(1), self.value - value.squeeze(1)).unsqueeze(1)
        flat = trial_slope <= (2 * _ARMIJO - 1) * self.slope
        falls = (value <= self.value.unsqueeze(1) + _ARMIJO * expected) | (blind & flat)
        falls = falls & torch.isfinite(g).all(dim=1, keepdim=True) & (value <= self.first_value.unsqueeze(1))
        flatter = (trial_slope >= _CURVATURE * self.slope) | (self.trials >= _MOST_TRIALS)
        self._narrow(falls, flatter, (self.t, value, trial_slope))
        return (falls & flatter).squeeze(1)

    def _narrow(self, falls: Tensor, flatter: Tensor, trial: tuple[Tensor, Tensor, Tensor]) -> None:
        (t, value, slope), (a, fa, da), (b, fb, db) = trial, self.low, self.high
        up = falls & ~flatter
        self.low = torch.where(up, t, a), torch.where(up, value, fa), torch.where(up, slope, da)
        self.high = torch.where(falls, b, t), torch.where(falls, fb, value), torch.where(falls, db, slope)
