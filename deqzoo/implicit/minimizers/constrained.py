"""What the minimisers with sets and penalties share: the residual of a proximal step, and what is accepted."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..constraints.trees import Regulariser, prox_of_tree
from ..fixed_point_solvers.base import Evaluate, FixedPointSolver, Function
from ..fixed_point_solvers.search import Search, SearchingSolver
from ..linear_solvers.base import dot, row_norm, safe_divide
from ..modes import no_derivatives
from ..pytree import Ravel, map_tensors
from ..solution import Solution
from .base import gradient

_FAR = 1e16  # times the expected fall: then the objective has no minimum in reach
_NOISE = 1e3  # eps of an objective's value: differences below that are not to be trusted
_ROUND_OFF = 10  # eps of an objective's value, within which it tells nothing


@dataclasses.dataclass(frozen=True)
class ConstrainedMinimizer(SearchingSolver):
    """Base of the minimisers of f + h, with h a penalty or 0 on a set and infinite outside of it.

    Called as `solver(objective, y0, *args, batch_dims=0, constraint=None, penalty=None) -> Solution`, with sets or
    penalties as `argmin` takes them. A start outside of the set is projected onto it; every point that is returned lies
    in the set, and none is above the start by more than the round-off of f. A system has converged by a step from the
    last accepted point,

        r = y - prox(y - s grad f(y)),    ||r|| <= tol max(||y||, ||y - y0||)  for stop="rel",  ||r|| <= tol for "abs"

    with the step length s that the method takes there, about one over the curvature of f. A system has diverged where
    its start is not finite or f + h falls without end. A trial counts as a step and as an evaluation; the first is a
    short one, for the curvature. Other arguments as for `FixedPointSolver`.
    """

    max_steps: int = 10_000
    patience: int = 200

    def __call__(  # type: ignore[override]  # its steps are neither recorded nor compacted
        self,
        f: Callable[..., Any],
        z0: Any,
        *args: Any,
        batch_dims: int = 0,
        root: bool = True,
        constraint: Any = None,
        penalty: Any = None,
    ) -> Solution:
        """Minimise f(z, *args) + h(z) over z, from z0; no derivatives (see `argmin`)."""
        part = one_of(constraint, penalty)
        values: list[Tensor] = []

        def gradient_of(z: Any, *rest: Any) -> Any:
            slope, value = gradient(f, z, *rest, batch_dims=batch_dims)
            values[:] = [value.detach().reshape(-1)]
            return slope

        with no_derivatives():
            regulariser = Regulariser(part, Ravel(z0, batch_dims))
            self.check_regulariser(regulariser)
            z0 = self.feasible(part, map_tensors(torch.Tensor.detach, z0), batch_dims)
            options = {field.name: getattr(self, field.name) for field in dataclasses.fields(FixedPointSolver)}
            solver = _Searching(**options, minimizer=self, values=values, regulariser=regulariser)
            return solver(gradient_of, z0, *args, batch_dims=batch_dims, root=True)

    def check_regulariser(self, regulariser: Regulariser) -> None:
        """Raise an error that names the others where the method cannot take a set or penalty."""

    def feasible(self, part: Any, z0: Any, batch_dims: int) -> Any:
        """The start, in the set."""
        return z0 if part is None else prox_of_tree(part, z0, 0.0, batch_dims)

    def search(self, evaluate: Evaluate) -> Search:
        """A minimiser is called on an objective, not on a root or fixed-point problem."""
        raise TypeError(f"{type(self).__name__} minimises: pass it to argmin, or call it on an objective")

    @abstractmethod
    def descent(self, g: Function, values: list[Tensor], regulariser: Regulariser) -> ConstrainedSearch:
        """The memory of one solve; g is minus the gradient, `values` holds the objective at the latest point."""


def one_of(constraint: Any, penalty: Any) -> Any:
    """The one that is given; an error where both are."""
    if constraint is not None and penalty is not None:
        raise TypeError("pass a constraint or a penalty; for both, a Penalty of your own whose prox is that of the sum")
    return penalty if constraint is None else constraint


@dataclasses.dataclass(frozen=True)
class _Searching(SearchingSolver):
    minimizer: ConstrainedMinimizer = None  # type: ignore[assignment]  # dataclass order wants a default
    values: list[Tensor] = dataclasses.field(default_factory=list)
    regulariser: Regulariser = None  # type: ignore[assignment]

    def search(self, evaluate: Evaluate) -> Search:
        return self.minimizer.descent(lambda z: evaluate(z)[0], self.values, self.regulariser)


class ConstrainedSearch(Search):
    """A search along which f + h falls.

    Attributes:
        g: of `Search`, here the step prox(y - s grad f(y)) - y from the accepted point.
        slope: grad f at the accepted point, (systems, unknowns).
        value, total: f and f + h there, (systems,).
        length: s, (systems, 1).
    """

    slope: Tensor
    value: Tensor
    total: Tensor
    length: Tensor

    def __init__(self, values: list[Tensor], regulariser: Regulariser) -> None:
        self.values, self.regulariser = values, regulariser

    def begin(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """As `Search.begin`."""
        super().begin(z, g, image)
        self.slope, self.value = -g, self.values[0]
        self.total = self.first_total = self.value + self.regulariser.value(z)
        extent, slope = row_norm(z).clamp(min=1.0), row_norm(g)
        length = torch.where(slope > 0, extent / slope, extent)
        self.length = length.clamp(max=self._huge).unsqueeze(1)
        reach = torch.maximum(row_norm(z), row_norm(self.proximal_step(z, self.slope, self.length) - z))
        self.expected_fall = self.first_total.abs() + slope * reach
        self._fell = torch.zeros_like(self.accepted)
        self.first = True  # the next trial is a short one; before it nothing tells how long s is to be
        self.g = torch.where(torch.isfinite(g), self._huge, g)

    @property
    def _huge(self) -> float:
        return float(torch.finfo(self.point.dtype).max ** 0.25)

    def measure(self) -> None:
        """The step from the accepted point, of the present length."""
        self.g = self.proximal_step(self.point, self.slope, self.length) - self.point

    def proximal_step(self, z: Tensor, slope: Tensor, length: Tensor) -> Tensor:
        """prox(z - length slope), or what the method has in its place; (systems, unknowns)."""
        return self.regulariser.prox(z - length * slope, length)

    def gap(self, value: Tensor, slope: Tensor, step: Tensor, value_before: Tensor, slope_before: Tensor) -> Tensor:
        """f after a step less its linear model, (systems,): by values or, where these are round-off, by slopes."""
        by_values = value - value_before - dot(slope_before, step).squeeze(1)
        by_slopes = dot(slope - slope_before, step).squeeze(1) / 2
        noise = _NOISE * self.eps * torch.maximum(value.abs(), value_before.abs())
        return torch.where(by_values.abs() > noise, by_values, by_slopes)

    @property
    def slack(self) -> Tensor:
        """The round-off of f + h at the accepted point, (systems,)."""
        return _ROUND_OFF * self.eps * torch.maximum(self.total.abs(), self.value.abs())

    def trial(self) -> Tensor:
        """As `Search.trial`."""
        if not self.first:
            return self.next_trial()
        size, slope = row_norm(self.point), row_norm(self.slope)
        short = torch.where(size > 0, self.eps**0.5 * size, slope.clamp(max=1.0))
        return self.proximal_step(self.point, self.slope, safe_divide(short, slope).unsqueeze(1))

    def observe(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        """As `Search.observe`."""
        slope, value = -g, self.values[0]
        total = value + self.regulariser.value(z)
        finite = torch.isfinite(total) & (row_norm(g) < torch.inf)
        if self.first:
            self._learn_length(z, slope, finite)
            self.first, mask = False, torch.zeros_like(finite)
        else:
            sound = finite & (total <= torch.minimum(self.total + self.slack, self.first_total + self.slack))
            mask = self.judge(z, value, slope, sound)
        self.accepted = mask & self.active
        self._fell = self.accepted & (total < self.total - self.slack)
        moved = self.accepted.unsqueeze(1)
        self.point, self.slope = torch.where(moved, z, self.point), torch.where(moved, slope, self.slope)
        self.value = torch.where(self.accepted, value, self.value)
        self.total = torch.where(self.accepted, total, self.total)
        self.measure()

    def _learn_length(self, z: Tensor, slope: Tensor, finite: Tensor) -> None:
        """One over the curvature of f along the first, short step; where it has none, a step of a great length."""
        step = row_norm(z - self.point)
        bend = safe_divide(row_norm(slope - self.slope), step)
        size = torch.maximum(row_norm(self.point), step)
        least = self.eps**0.5 * safe_divide(row_norm(self.slope), size)
        curvature = torch.maximum(bend, least)
        known = finite & (curvature > 0) & (curvature < torch.inf)
        self.length = torch.where(known.unsqueeze(1), 1 / curvature.unsqueeze(1), self.length)

    @abstractmethod
    def next_trial(self) -> Tensor:
        """As `Search.trial`, after the first; where `accepted`, the system is at a new point."""

    @abstractmethod
    def judge(self, z: Tensor, value: Tensor, slope: Tensor, sound: Tensor) -> Tensor:
        """Whether to accept the trial z, (systems,), of the `sound` ones: finite, and not above the last point."""

    def fell(self) -> Tensor:
        """As `Search.fell`."""
        return self._fell

    def scales(self) -> Tensor:
        """As `Search.scales`."""
        return torch.maximum(row_norm(self.point), row_norm(self.point - self.start)).unsqueeze(1)

    def relative(self) -> Tensor:
        """As `Search.relative`."""
        norm = row_norm(self.g)
        return torch.where(norm == 0, norm, norm / self.scales().squeeze(1))

    def lost(self) -> Tensor:
        """As `Search.lost`: also where f + h fell beyond all measure."""
        unbounded = self.first_total - self.total > _FAR * self.expected_fall
        return ~(row_norm(self.g) < torch.inf) | ~torch.isfinite(self.total) | unbounded
