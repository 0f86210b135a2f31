"""Newton's method for minima, with the Hessian written out and an exact trust region."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Function
from ..linear_solvers.base import dot, row_norm, safe_divide
from ..modes import host_flags
from ..operator import jacobian
from ..root_solvers.trust_region import ACCEPTABLE, minimise_quadratic, next_radius
from .base import Descent, Minimizer


@dataclasses.dataclass(frozen=True)
class TrustRegion(Minimizer):
    """Newton's method with the Hessian H written out: each step minimises the quadratic model within a trust region.

        min_s grad . s + s . H s / 2,    ||D s|| <= radius,    D_i^2 = |H_ii|

    The most robust of the minimisers: indefinite and singular H, narrow valleys and unknowns that differ in scale by
    many orders are no trouble. n products with H and its eigenvalues per step: for up to some hundred unknowns.

    Source: Moré, Sorensen, "Computing a Trust Region Step", 1983.

    >>> def rosenbrock(y):
    ...     return (1 - y[0]) ** 2 + 100 * (y[1] - y[0] ** 2) ** 2
    >>> TrustRegion()(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64)).value
    tensor([1.0000, 1.0000], dtype=torch.float64)
    """

    def descent(self, g: Function, values: list[Tensor]) -> Descent:
        """As `Minimizer.descent`."""
        return TrustRegionSearch(values, g)


class TrustRegionSearch(Descent):
    """The memory of one solve, with the model's matrix written out."""

    radius: Tensor

    def __init__(self, values: list[Tensor], function: Function) -> None:
        super().__init__(values)
        self.function = function
        self.modelled = False

    def next_trial(self) -> Tensor:
        """As `Descent.next_trial`."""
        if host_flags(self.accepted)[0][0]:
            self._model()
        step = self.step_within(-self.g / self.scaling)
        self.length = row_norm(step)
        curved = (self.scaled @ step.unsqueeze(2)).squeeze(2)
        self.predicted = (dot(self.g / self.scaling, step) - dot(step, curved) / 2).squeeze(1)
        return self.point + step / self.scaling

    def _model(self) -> None:
        """Write H out, in scaled unknowns."""
        hessian = self.hessian()
        hessian = (hessian + hessian.mT) / 2
        self.scaling = _scales(hessian)
        self.scaled = hessian / (self.scaling.unsqueeze(1) * self.scaling.unsqueeze(2))
        if not self.modelled:
            self.modelled = True
            extent = row_norm(self.scaling * self.point)
            self.radius = torch.where(extent > 0, extent, row_norm(self.g / self.scaling))

    def step_within(self, slope: Tensor) -> Tensor:
        """A step within the radius that brings the model down, in scaled unknowns; `slope` is the gradient there."""
        # Newton's step, where it is within: a factorisation in place of all eigenvalues.
        lower, failed = torch.linalg.cholesky_ex(self.scaled)
        newton = -torch.cholesky_solve(slope.unsqueeze(2), lower).squeeze(2)
        if host_flags((failed == 0) & (row_norm(newton) <= self.radius))[0][1]:
            return newton
        return minimise_quadratic(self.scaled, slope, self.radius)

    def hessian(self) -> Tensor:
        """H at the accepted point, (systems, n, n)."""
        self.products += self.point.shape[1]
        return jacobian(lambda x: -self.function(x), self.point, tags=("symmetric",)).to_dense(self.point)

    def judge(self, z: Tensor, value: Tensor, g: Tensor) -> Tensor:
        """As `Descent.judge`: by the ratio of the fall to the predicted one; by the gradient where both are noise."""
        fall = self.value - value
        better = self.better_by_gradient(self.predicted, fall, g)
        ratio = torch.where(better, torch.ones_like(fall), fall / self.predicted)
        self.radius = next_radius(self.radius, ratio, self.length)
        return ratio >= ACCEPTABLE


def _scales(hessian: Tensor) -> Tensor:
    """D_i = sqrt |H_ii|, or |H_ij| / sqrt |H_jj| where that is larger (H is indefinite there), (systems, unknowns)."""
    hessian = hessian.abs().nan_to_num(posinf=0.0)
    root = hessian.diagonal(dim1=1, dim2=2).sqrt()
    scales = torch.maximum(root, safe_divide(hessian, root.unsqueeze(1).expand_as(hessian)).amax(dim=2))
    least = torch.finfo(scales.dtype).eps ** 0.5 * scales.amax(dim=1, keepdim=True)
    return torch.where(scales > least, scales, torch.where(least > 0, least, torch.ones_like(least)))
