"""Roots of one unknown between two ends of opposite sign: they cannot be missed."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Evaluate, FixedPointSolver, Function, Method
from ..linear_solvers.base import default_tolerance
from ..modes import host_flags
from ..solution import Solution, Status


class Bracket(NamedTuple):
    """The ends of each bracket and the values there, of opposite sign; x1 is the newest point. (systems, 1) each."""

    x1: Tensor
    x2: Tensor
    f1: Tensor
    f2: Tensor
    x3: Tensor
    f3: Tensor


@dataclasses.dataclass(frozen=True)
class BracketingSolver(FixedPointSolver):
    """Base of the solvers of f(y) = 0, y one number per system, between `low` and `high`. For `root` alone.

    f must be continuous, with values of opposite sign at the two ends; where it has not, the system has STALLED. A
    system has converged when the root is known to within

        |high - low| <= tol max(|y|, tol W),    W the width at the start

    or |high - low| <= atol + that, or where f is 0. The start y0 gives shape and dtype alone.

    Args:
        low, high: the ends, numbers or tensors of y0's shape.
    """

    low: float | Tensor = 0.0
    high: float | Tensor = 1.0

    def method(self, g: Function, tol: float) -> Method:
        """Not for a bracket, which has a loop of its own."""
        raise TypeError(f"{type(self).__name__} has no update of each iterate: it narrows a bracket")

    @abstractmethod
    def share(self, bracket: Bracket, least: Tensor) -> Tensor:
        """Where to look next: x1 + share (x2 - x1), the share between `least` and 1 - least, (systems, 1)."""

    def run(self, evaluate: Evaluate, z: Tensor, finite: Tensor | None, compact: bool) -> Solution:
        """As `FixedPointSolver.run`."""
        if not evaluate.root or z.shape[1] != 1:
            raise ValueError(f"{type(self).__name__} is for root, one unknown per system: pass batch_dims=y0.dim()")
        low, high = (
            torch.as_tensor(end, dtype=z.dtype, device=z.device).expand(self._shape(end, z)).reshape(-1, 1)
            for end in (self.low, self.high)
        )
        f2 = -evaluate.first(low)[0]
        f1 = -evaluate(high)[0]
        tol = default_tolerance(evaluate.precision) if self.tol is None else self.tol
        bracket = Bracket(high + 0 * f1, low + 0 * f2, f1, f2, low, f2)
        width = (high - low).abs()
        sound = (f1.sign() * f2.sign() <= 0).squeeze(1) & torch.isfinite(f1 + f2).squeeze(1)
        lost = ~torch.isfinite(f1 + f2).squeeze(1)
        if finite is not None:
            lost = lost | ~finite
        active, steps = sound & ~lost, torch.zeros_like(sound, dtype=torch.long)
        for step in range(self.max_steps + 1):
            best = torch.where(bracket.f1.abs() <= bracket.f2.abs(), bracket.x1, bracket.x2)
            scale = torch.maximum(best.abs(), tol * width)
            gap = torch.where((bracket.f1 == 0) | (bracket.f2 == 0), 0.0, (bracket.x2 - bracket.x1).abs())
            steps = steps + active if step else steps
            active = active & (gap > self.atol + tol * scale).squeeze(1)
            if step == self.max_steps or not host_flags(active)[0][0]:
                break
            least = (0.5 * tol * scale / gap).clamp(max=0.5)
            x = bracket.x1 + self.share(bracket, least).clamp(min=least, max=1 - least) * (bracket.x2 - bracket.x1)
            bracket = _narrowed(bracket, x, -evaluate(x)[0], active.unsqueeze(1))
        status = torch.where(active, Status.MAX_STEPS, torch.where(sound, Status.CONVERGED, Status.STALLED))
        status = torch.where(lost, Status.DIVERGED, status)
        value = torch.where(lost.unsqueeze(1), z, best)
        residual = torch.where(sound.unsqueeze(1), gap / scale, torch.inf).squeeze(1)
        return Solution(value, status, residual, steps, evaluate.calls)

    def _shape(self, end: float | Tensor, z: Tensor) -> torch.Size:
        """Of an end, as many entries as systems."""
        return end.shape if isinstance(end, Tensor) and end.numel() == z.shape[0] else z.shape


@dataclasses.dataclass(frozen=True)
class Bisection(BracketingSolver):
    """The middle of the bracket each time: one bit a step, whatever f is.

    >>> Bisection(low=0.0, high=2.0)(lambda y: y**2 - 2, torch.zeros((), dtype=torch.float64), root=True).value
    tensor(1.4142, dtype=torch.float64)
    """

    max_steps: int = 200

    def share(self, bracket: Bracket, least: Tensor) -> Tensor:
        """As `BracketingSolver.share`."""
        return torch.full_like(least, 0.5)


@dataclasses.dataclass(frozen=True)
class Chandrupatla(BracketingSolver):
    """Inverse quadratic interpolation where three points promise it to work, else bisection: as safe, much faster.

    The successor of Brent's method, with one rule in place of his five.

    Source: Chandrupatla, "A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
    without using derivatives", 1997.

    >>> solver = Chandrupatla(low=0.0, high=2.0)
    >>> solver(lambda y: y**2 - 2, torch.zeros((), dtype=torch.float64), root=True).value
    tensor(1.4142, dtype=torch.float64)
    """

    def share(self, bracket: Bracket, least: Tensor) -> Tensor:
        """As `BracketingSolver.share`."""
        x1, x2, f1, f2, x3, f3 = bracket
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        inverse = f1 / (f1 - f2) * f3 / (f3 - f2) - (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f2 - f3)
        fits = (1 - (1 - xi).sqrt() < phi) & (phi < xi.sqrt()) & torch.isfinite(inverse)
        return torch.where(fits, inverse, 0.5)


def _narrowed(old: Bracket, x: Tensor, f: Tensor, active: Tensor) -> Bracket:
    """The bracket with x for one of its ends; unchanged where not active."""
    same = f.sign() == old.f1.sign()
    new = Bracket(
        x,
        torch.where(same, old.x2, old.x1),
        f,
        torch.where(same, old.f2, old.f1),
        torch.where(same, old.x1, old.x2),
        torch.where(same, old.f1, old.f2),
    )
    return Bracket(*(torch.where(active, *pair) for pair in zip(new, old, strict=True)))
