"""Newton's method for minima, with conjugate gradients inside."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Function
from ..linear_solvers import CG
from ..operator import jacobian
from .base import Minimizer
from .line_search import LineSearch


@dataclasses.dataclass(frozen=True)
class NewtonCG(Minimizer):
    """Truncated Newton: H p = -grad by CG on Hessian-vector products, stopped early or at negative curvature.

    Args:
        forcing: relative residual of the inner solve; smaller means fewer, dearer steps.

    Source: Nocedal, Wright, "Numerical Optimization", 2006, algorithm 7.1.

    >>> NewtonCG()(lambda y: (y**4 / 4 - 2 * y).sum(), torch.ones(2)).value ** 3
    tensor([2.0000, 2.0000])
    """

    forcing: float = 1e-2

    def descent(self, g: Function, values: list[Tensor]) -> LineSearch:
        """As `Minimizer.descent`."""
        return _NewtonCG(values, g, self.forcing)


class _NewtonCG(LineSearch):
    def __init__(self, values: list[Tensor], g: Function, forcing: float) -> None:
        super().__init__(values)
        self.function, self.forcing = g, forcing
        self.last: Tensor | None = None

    def direction(self, z: Tensor, descent: Tensor, accepted: Tensor) -> Tensor:
        hessian = jacobian(lambda x: -self.function(x), z, tags=("positive_definite",))
        solution = CG(tol=self.forcing)(hessian, torch.where(accepted, descent, torch.zeros_like(descent)))
        self.products += solution.nfe
        self.last = solution.value if self.last is None else torch.where(accepted, solution.value, self.last)
        return self.last
