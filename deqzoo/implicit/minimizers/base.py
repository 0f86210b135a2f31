"""What all minimisers share: the gradient as a root problem, and when a point counts as a minimum."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Evaluate, FixedPointSolver, Function
from ..fixed_point_solvers.search import Search, SearchingSolver
from ..linear_solvers.base import dot, row_norm, safe_divide
from ..operator import pullback
from ..pytree import Ravel, tensor_leaves
from ..solution import Solution

_LEAST = 50  # eps of B: what the round-off of a gradient may come to
_MOST = 2.0  # times B: the largest scale
_TIGHT = 1e-4  # tolerances up to this one are for the minimum itself
_AT_REST = 10.0  # times the tolerance: a start that another search may have ended at
_STEPS = 5  # of which the largest B counts
_FAR = 1e16  # times the expected fall: then the objective has no minimum in reach
_ROUND_OFF = 10  # eps of an objective's value, within which it tells nothing
_NOISE = 1e3  # times that: a change of the objective that a step too short to tell may bring by round-off


def gradient(objective: Callable[..., Any], y: Any, *args: Any, batch_dims: int = 0) -> tuple[Any, Tensor]:
    """Gradient of `objective(y, *args)` in y, in the structure of y, and the value. Differentiable again.

    With `batch_dims=1` the objective returns one value per system, shape (systems,).
    """
    ravel = Ravel(y, batch_dims)

    def total(leaves: tuple[Tensor, ...]) -> tuple[Tensor]:
        value = objective(ravel.restore(leaves), *args)
        if not isinstance(value, Tensor) or value.shape != ravel.batch_shape:
            shape = tuple(getattr(value, "shape", ()))
            raise ValueError(
                f"the objective must return a tensor of shape {tuple(ravel.batch_shape)} (one value per system, "
                f"batch_dims={batch_dims}), got {type(value).__name__} of shape {shape}"
            )
        return (value,)

    value, vjp = pullback(total, tuple(tensor_leaves(y)))
    return ravel.restore(vjp((torch.ones_like(value[0]),))), value[0]


@dataclasses.dataclass(frozen=True)
class Minimizer(SearchingSolver):
    """Base of the minimisers, called as `solver(objective, y0, *args, batch_dims=0) -> Solution`.

    No point is returned whose objective is above y0's by more than round-off. A system has converged when

        ||grad|| <= tol scale for stop="rel"        ||grad|| <= tol for stop="abs"

    at the last point that its search accepted. The scale is the norm of the gradient at y0, within bounds that come
    from what the Hessian makes of the size of the unknowns,

        B = ||change of the gradient|| / max_i |step_i / y_i|,    the largest over the last steps:

    at most 2 B, with max(|y_i|, |y_i - y0_i|) for |y_i|, so that a start far out, where the gradient is huge, loosens
    nothing (a tolerance above 1e-4 has no such bound: it requires that part of the first gradient); at least 50 eps B /
    tol, which round-off lets reach. A start where ||grad|| <= 10 min(tol, eps^(3/4)) B is a minimum already and has
    converged at once, and so has such a point from which no step brings anything more. No scale of the objective
    matters. A system has diverged where its start is not finite or the objective falls without end.

    A trial counts as a step and as an evaluation; the first is a short one, for B. Other arguments as for
    `FixedPointSolver`.
    """

    max_steps: int = 1000

    def __call__(  # type: ignore[override]  # its steps are neither recorded nor compacted
        self, f: Callable[..., Any], z0: Any, *args: Any, batch_dims: int = 0, root: bool = True
    ) -> Solution:
        """Minimise f(z, *args) over z, from z0; no derivatives (see `argmin`)."""
        values: list[Tensor] = []

        def gradient_of(z: Any, *rest: Any) -> Any:
            slope, value = gradient(f, z, *rest, batch_dims=batch_dims)
            values[:] = [value.detach().reshape(-1)]
            return slope

        solver = _Searching(**_options(self), minimizer=self, values=values)
        return solver(gradient_of, z0, *args, batch_dims=batch_dims, root=True)

    def search(self, evaluate: Evaluate) -> Search:
        """A minimiser is called on an objective, not on a root or fixed-point problem."""
        raise TypeError(f"{type(self).__name__} minimises: pass it to argmin, or call it on an objective")

    @abstractmethod
    def descent(self, g: Function, values: list[Tensor]) -> Descent:
        """The memory of one solve; g is minus the gradient, `values` holds the objective at the latest point."""


def _options(minimizer: Minimizer) -> dict[str, Any]:
    return {field.name: getattr(minimizer, field.name) for field in dataclasses.fields(FixedPointSolver)}


@dataclasses.dataclass(frozen=True)
class _Searching(SearchingSolver):
    minimizer: Minimizer = None  # type: ignore[assignment]  # dataclass order wants a default
    values: list[Tensor] = dataclasses.field(default_factory=list)

    def search(self, evaluate: Evaluate) -> Search:
        return self.minimizer.descent(lambda z: evaluate(z)[0], self.values)


class Descent(Search):
    """A search along which the objective falls.

    The first trial is a short step downhill, which tells the curvature there: a start at the minimum is
    recognised by it, and a first direction gets its length.

    Attributes:
        value, first_value: the objective at the accepted point and at the start, (systems,).
        curvature, most: B of `Minimizer`, of its lower and its upper bound, (systems,); None before the first trial.
        first_length: of a step along minus the first gradient, (systems, 1).
        first_size, expected_fall: of the first value, and the fall that the start lets expect, (systems,).
    """

    curvature: Tensor | None
    most: Tensor
    seen: Tensor  # the last values of both, (steps, 2, systems)

    def __init__(self, values: list[Tensor]) -> None:
        self.values = values

    def begin(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """As `Search.begin`."""
        super().begin(z, g, image)
        self.value = self.first_value = self.values[0]
        self.first_norm, self.first_size = row_norm(g), self.first_value.abs()
        self.expected_fall = self.first_size + self.first_norm * row_norm(z)
        self.curvature = None
        self.first = True  # the next trial is the first
        self.warm = torch.zeros_like(self.accepted)  # the start is a minimum
        self._fell = torch.zeros_like(self.accepted)

    def trial(self) -> Tensor:
        """As `Search.trial`."""
        if self.curvature is not None:
            return self.next_trial()
        # The same relative step in each unknown, downhill; from zero, where sizes tell nothing, along the gradient.
        short = self.eps**0.5 * self.point.abs() * self.g.sign()
        length = safe_divide(self.first_norm.clamp(max=1.0), self.first_norm)
        return self.point + torch.where(row_norm(short) > 0, short.T, (length.unsqueeze(1) * self.g).T).T

    @property
    def slack(self) -> Tensor:
        """The round-off of the objective at the accepted point, (systems,)."""
        return _ROUND_OFF * self.eps * self.value.abs()

    def not_above_start(self, value: Tensor) -> Tensor:
        """Whether an objective is at most the first one, (systems,); to round-off, which hides how good a start is."""
        return value <= self.first_value + _ROUND_OFF * self.eps * self.first_size

    def within_round_off(self, predicted: Tensor, fall: Tensor) -> Tensor:
        """Whether the fall of the objective that a step predicted is round-off, and so is the one that came."""
        return (predicted <= self.slack) & (fall.abs() <= _NOISE * self.slack)

    def better_by_gradient(self, predicted: Tensor, fall: Tensor, g: Tensor) -> Tensor:
        """Whether a step to where the gradient is -g is good although the fall of the objective is round-off.

        The round-off of a sum of small differences is more than that of their sum: so a step that halves the gradient
        is good where the predicted fall is larger than that, too.
        """
        norm, before = row_norm(g), row_norm(self.g)
        halved = self.within_round_off(predicted / _NOISE, fall) & (2 * norm <= before)
        return halved | (self.within_round_off(predicted, fall) & (norm < before))

    def observe(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """As `Search.observe`; a point above the start is not accepted, nor one that is not finite."""
        value, first = self.values[0], self.first
        change = self.g - g
        if first:
            self.curvature = torch.zeros_like(value)
            length = safe_divide(dot(z - self.point, change), dot(change, change))
            plain = safe_divide(torch.ones_like(length), self.first_norm.unsqueeze(1)).clamp(max=1.0)
            self.first_length = torch.where((length > 0) & torch.isfinite(length), length, plain)
            extent = torch.maximum(row_norm(self.start), self.first_norm * self.first_length.squeeze(1))
            self.expected_fall = self.first_size + self.first_norm * extent
            accepted = value < self.value - self.slack  # else the start stands, which may be a minimum
        else:
            accepted = self.judge(z, value, g)
        accepted = accepted & (row_norm(g) < torch.inf) & torch.isfinite(value) & self.not_above_start(value)
        self._fell = accepted & (value < self.value - self.slack)
        before = self.point
        self.accept(accepted, z, g, image)
        self.value = torch.where(self.accepted, value, self.value)
        self._learn(z - before, change, self.accepted | first)
        if first:
            self.first, self.warm, self.accepted = False, self.at_rest(), self.active

    def _learn(self, step: Tensor, change: Tensor, near: Tensor) -> None:
        """Learn from a step of the systems `near` what a relative change of the unknowns does to the gradient."""
        change = row_norm(change)
        here, reach = (_largest(safe_divide(step.abs(), size)) for size in (self.point.abs(), self.size))
        if not self.first:  # a tiny step across a kink would tell of a curvature without bounds
            near = near & (here >= self.eps**0.5)
        here, reach = change / here, change / reach
        seen = torch.stack([here, reach])
        seen = torch.where(torch.isfinite(seen), seen, torch.zeros_like(seen))
        # The largest of the last ones: a single step may lie along a flat direction.
        before = torch.zeros_like(seen).expand(_STEPS, *seen.shape) if self.first else self.seen
        self.seen = torch.where(near, torch.cat([seen.unsqueeze(0), before[:-1]]), before)
        self.curvature, self.most = self.seen.amax(dim=0).unbind(0)

    @abstractmethod
    def next_trial(self) -> Tensor:
        """As `Search.trial`, after the first; where `accepted`, the system is at a new point."""

    @abstractmethod
    def judge(self, z: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """Whether to accept the trial z, (systems,); g is minus the gradient there."""

    def fell(self) -> Tensor:
        """As `Search.fell`."""
        return self._fell

    def scales(self) -> Tensor:
        """As `Search.scales`."""
        scale = self.first_norm
        if self.curvature is not None:
            least = min(_LEAST * self.eps / self.tol, 1.0) if self.tol else 1.0  # of B is what round-off lets reach
            scale = torch.maximum(scale, least * self.curvature)
            if self.tol <= _TIGHT:
                scale = torch.where(self.most > 0, torch.minimum(scale, _MOST * self.most), scale)
            scale = torch.where(self.warm, _AT_REST * self.curvature, scale)
        return scale.unsqueeze(1)

    def relative(self) -> Tensor:
        """As `Search.relative`."""
        norm = row_norm(self.g)
        return torch.where(norm == 0, norm, norm / self.scales().squeeze(1))

    def at_rest(self) -> Tensor:
        """As `Search.at_rest`: where the gradient is round-off beside B, or nearly so."""
        if self.curvature is None:
            return torch.zeros_like(self.accepted)
        return row_norm(self.g) <= _AT_REST * min(self.tol, self.eps**0.75) * self.curvature

    def lost(self) -> Tensor:
        """As `Search.lost`: also where the objective fell, or its slope grew, beyond all measure."""
        fall, slope = self.first_value - self.value, row_norm(self.g)
        way = row_norm(self.point - self.start)
        unbounded = fall > _FAR * self.expected_fall
        cusp = slope * way > _FAR * (fall + self.first_size)
        return ~(slope < torch.inf) | ~torch.isfinite(self.value) | unbounded | cusp


def _largest(x: Tensor) -> Tensor:
    return x.amax(dim=1) if x.shape[1] else row_norm(x)
