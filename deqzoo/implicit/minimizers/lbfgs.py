"""Limited-memory BFGS."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Function
from ..linear_solvers.base import dot, safe_divide
from .base import Minimizer
from .line_search import LineSearch


@dataclasses.dataclass(frozen=True)
class LBFGS(Minimizer):
    """Limited-memory BFGS: the two-loop recursion on the last `memory` pairs, and a weak Wolfe line search.

    Args:
        memory: pairs (step, change of gradient) kept; 2 memory copies of the state.

    Source: Liu, Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

    >>> def rosenbrock(y):
    ...     return (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2
    >>> LBFGS(tol=1e-9)(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64)).value
    tensor([1.0000, 1.0000], dtype=torch.float64)
    """

    memory: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise ValueError(f"LBFGS needs memory >= 1 pairs, got {self.memory}")

    def descent(self, g: Function, values: list[Tensor]) -> LineSearch:
        """As `Minimizer.descent`."""
        return _LBFGS(values, self.memory)


class _LBFGS(LineSearch):
    def __init__(self, values: list[Tensor], memory: int) -> None:
        super().__init__(values)
        self.memory = memory
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # (s, y, 1 / s.y), the oldest first
        self.last: tuple[Tensor, Tensor] | None = None

    def direction(self, z: Tensor, descent: Tensor, accepted: Tensor) -> Tensor:
        if self.last is None:
            self.scale = self.first_length
        else:
            s, y = z - self.last[0], self.last[1] - descent
            sy, yy = dot(s, y), dot(y, y)
            # Zero for systems that did not move or met no curvature: their pair then changes nothing.
            usable = accepted & (sy > torch.finfo(s.dtype).eps * yy)
            rho = torch.where(usable, safe_divide(torch.ones_like(sy), sy), torch.zeros_like(sy))
            self.scale = torch.where(usable, safe_divide(sy, yy), self.scale)
            self.pairs = [*self.pairs, (s, y, rho)][-self.memory :]
        self.last = (z, descent)
        q, kept = descent, []
        for s, y, rho in reversed(self.pairs):
            alpha = rho * dot(s, q)
            q = q - alpha * y
            kept.append(alpha)
        q = q * self.scale
        for (s, y, rho), alpha in zip(self.pairs, reversed(kept), strict=True):
            q = q + (alpha - rho * dot(y, q)) * s
        return q
