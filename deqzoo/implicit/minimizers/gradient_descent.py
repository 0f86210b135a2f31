"""Gradient descent with a line search."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Function
from ..linear_solvers.base import dot, safe_divide
from .base import Minimizer
from .line_search import LineSearch


@dataclasses.dataclass(frozen=True)
class GradientDescent(Minimizer):
    """Steepest descent, y <- y - t grad, the first trial of t by Barzilai and Borwein's rule, then a line search.

    Linear convergence: for well-conditioned problems, and as the plain reference for the others.

    Source: Barzilai, Borwein, "Two-Point Step Size Gradient Methods", 1988.

    >>> GradientDescent()(lambda y: ((y - 2) ** 2).sum(), torch.zeros(2)).value.round(decimals=3)
    tensor([2., 2.])
    """

    def descent(self, g: Function, values: list[Tensor]) -> LineSearch:
        """As `Minimizer.descent`."""
        return _GradientDescent(values)


class _GradientDescent(LineSearch):
    last: tuple[Tensor, Tensor] | None = None

    def direction(self, z: Tensor, descent: Tensor, accepted: Tensor) -> Tensor:
        if self.last is None:
            self.spectral = self.first_length
        else:
            s, y = z - self.last[0], self.last[1] - descent
            spectral = safe_divide(dot(s, s), dot(s, y))
            self.spectral = torch.where(accepted & (spectral > 0), spectral, self.spectral)
        self.last = (z, descent)
        return descent

    def length(self, descent: Tensor) -> Tensor:
        return self.spectral
