"""What all minimisers share: the gradient as a root problem, and a line search for each system."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..fixed_point_solvers.base import FixedPointSolver, Function, Method
from ..linear_solvers.base import dot
from ..modes import host_flags
from ..operator import pullback
from ..pytree import Ravel, tensor_leaves
from ..solution import Solution

_ARMIJO, _CURVATURE = 1e-4, 0.9  # the constants of the Wolfe conditions
_MOST_TRIALS = 40  # then the step is taken if it does not raise the objective


def gradient(objective: Callable[..., Any], y: Any, *args: Any, batch_dims: int = 0) -> tuple[Any, Tensor]:
    """Gradient of `objective(y, *args)` in y, in the structure of y, and the value. Differentiable again.

    With `batch_dims=1` the objective returns one value a system, shape (systems,).
    """
    ravel = Ravel(y, batch_dims)

    def total(leaves: tuple[Tensor, ...]) -> tuple[Tensor]:
        value = objective(ravel.restore(leaves), *args)
        if not isinstance(value, Tensor) or value.shape != ravel.batch_shape:
            shape = tuple(getattr(value, "shape", ()))
            raise ValueError(
                f"the objective must return a tensor of shape {tuple(ravel.batch_shape)} (one value a system, "
                f"batch_dims={batch_dims}), got {type(value).__name__} of shape {shape}"
            )
        return (value,)

    value, vjp = pullback(total, tuple(tensor_leaves(y)))
    return ravel.restore(vjp((torch.ones_like(value[0]),))), value[0]


@dataclasses.dataclass(frozen=True)
class Minimizer(FixedPointSolver):
    """Base of the minimisers, called as `solver(objective, y0, *args, batch_dims=0) -> Solution`.

    A system has converged when ||grad|| <= tol ||grad at y0|| (`stop="abs"`: <= tol). A trial of the line search counts
    as a step and as an evaluation. Other arguments as for `FixedPointSolver`.
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

    def method(self, g: Function, tol: float) -> Method:
        """A minimiser is called on an objective, not on a fixed-point problem."""
        raise TypeError(f"{type(self).__name__} minimises: pass it to argmin, or call it on an objective")

    @abstractmethod
    def search(self, g: Function, values: list[Tensor]) -> LineSearch:
        """The method of one solve; g is minus the gradient, `values` holds the objective at the latest point."""


def _options(minimizer: Minimizer) -> dict[str, Any]:
    return {field.name: getattr(minimizer, field.name) for field in dataclasses.fields(FixedPointSolver)}


@dataclasses.dataclass(frozen=True)
class _Searching(FixedPointSolver):
    minimizer: Minimizer = None  # type: ignore[assignment]  # dataclass order wants a default
    values: list[Tensor] = dataclasses.field(default_factory=list)

    def method(self, g: Function, tol: float) -> Method:
        return self.minimizer.search(g, self.values)


class LineSearch(Method):
    """Weak Wolfe line search by bisection and doubling, along directions that a subclass proposes.

    Source: Lewis, Overton, "Nonsmooth optimization via quasi-Newton methods", 2013, algorithm 2.6.
    """

    backtracks = True
    unit_jacobian = False

    def __init__(self, values: list[Tensor]) -> None:
        self.values = values
        self.base: Tensor | None = None

    @abstractmethod
    def direction(self, z: Tensor, descent: Tensor, accepted: Tensor) -> Tensor:
        """A descent direction at z, where `descent` is minus the gradient; `accepted` marks systems at a new point."""

    def first_length(self, descent: Tensor) -> Tensor:
        """The first trial along a direction, (systems, 1)."""
        return torch.ones_like(descent[:, :1])

    def merit(self) -> Tensor:
        """The objective at the latest point."""
        return self.values[0]

    def step(self, z: Tensor, g: Tensor, image: Tensor) -> Tensor:
        """The next trial: further along the present path, or the first along a new one."""
        value = self.values[0].unsqueeze(1)
        if self.base is None:
            self.base, self.base_value, self.descent = z, value, g
            self.path = torch.zeros_like(z)
            self.low = self.high = self.t = self.slope = self.trials = torch.zeros_like(value)
            accept = torch.ones_like(value, dtype=torch.bool)
        else:
            accept = self._judge(value, g)
        self.base = torch.where(accept, z, self.base)
        self.base_value = torch.where(accept, value, self.base_value)
        self.descent = torch.where(accept, g, self.descent)
        if host_flags(accept)[0][0]:
            path = self.direction(self.base, self.descent, accept)
            slope = -dot(self.descent, path)
            downhill = slope < 0
            path = torch.where(downhill, path, self.descent)
            slope = torch.where(downhill, slope, -dot(self.descent, self.descent))
            self.path = torch.where(accept, path, self.path)
            self.slope = torch.where(accept, slope, self.slope)
        zero = torch.zeros_like(value)
        self.low = torch.where(accept, zero, self.low)
        self.high = torch.where(accept, torch.full_like(value, torch.inf), self.high)
        self.trials = torch.where(accept, zero, self.trials + 1)
        between = torch.where(torch.isinf(self.high), 2 * self.low, (self.low + self.high) / 2)
        self.t = torch.where(accept, self.first_length(self.descent), between)
        return self.base + self.t * self.path

    def _judge(self, value: Tensor, g: Tensor) -> Tensor:
        """Whether the trial meets both conditions; narrows the bracket where it does not."""
        # Near the minimum differences of the objective are round-off: a rise within it counts as a fall.
        slack = 10 * torch.finfo(value.dtype).eps * self.base_value.abs()
        falls = value <= self.base_value + _ARMIJO * self.t * self.slope + slack
        falls = falls & torch.isfinite(g).all(dim=1, keepdim=True)
        flatter = -dot(g, self.path) >= _CURVATURE * self.slope
        self.high = torch.where(falls, self.high, self.t)
        self.low = torch.where(falls & ~flatter, self.t, self.low)
        return falls & (flatter | (self.trials >= _MOST_TRIALS))
