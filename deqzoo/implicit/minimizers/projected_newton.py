"""Newton's method between bounds."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..constraints.parameters import parameter
from ..constraints.sets import Bounds
from ..constraints.trees import Regulariser
from ..fixed_point_solvers.base import Function
from ..linear_solvers.base import row_norm
from ..modes import host_flags
from ..operator import jacobian
from .constrained import ConstrainedMinimizer, ConstrainedSearch

_ARMIJO = 1e-4
_NEAR = 1e-2  # of the size of y: how near to a bound an entry may be held to be there, at most


@dataclasses.dataclass(frozen=True)
class ProjectedNewton(ConstrainedMinimizer):
    """Newton's method for lower <= y <= upper, with the Hessian written out: few steps, whatever the conditioning.

        y <- P(y + t p),    H_FF p_F = -grad_F

    with F the entries that no bound holds: at the others, the gradient points out of the box. Negative eigenvalues of
    H_FF are taken by their absolute values; t is halved until f falls enough. n products with H and its eigenvalues per
    step: for up to some hundred unknowns. Takes `Box`, `NonNegative` and `LInfBall`.

    Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints", 1982.

    >>> from deqzoo.implicit import NonNegative
    >>> c = torch.tensor([3.0, -1.0])
    >>> ProjectedNewton()(lambda y: ((y - c).exp() - y).sum(), torch.ones(2), constraint=NonNegative()).value
    tensor([3.0000, 0.0000])
    """

    def check_regulariser(self, regulariser: Regulariser) -> None:
        """As `ConstrainedMinimizer.check_regulariser`."""
        if not all(isinstance(part, Bounds) for part in regulariser.parts):
            raise TypeError(
                "ProjectedNewton needs bounds: constraint=Box(lower, upper), NonNegative() or LInfBall(radius); "
                "ProximalGradient() takes any set or penalty"
            )

    def descent(self, g: Function, values: list[Tensor], regulariser: Regulariser) -> ConstrainedSearch:
        """As `ConstrainedMinimizer.descent`."""
        return _ProjectedNewton(values, regulariser, g)


class _ProjectedNewton(ConstrainedSearch):
    direction: Tensor  # p, (systems, unknowns)
    free: Tensor  # F, likewise
    share: Tensor  # t, (systems, 1)

    def __init__(self, values: list[Tensor], regulariser: Regulariser, function: Function) -> None:
        super().__init__(values, regulariser)
        self.function = function
        self.modelled = False

    def next_trial(self) -> Tensor:
        if not self.modelled or host_flags(self.accepted)[0][0]:
            self._model()
        return self.regulariser.prox(self.point + self.share * self.direction, self.length)

    def _model(self) -> None:
        """A new direction for the systems at a new point."""
        n = self.point.shape[1]
        hessian = jacobian(lambda x: -self.function(x), self.point, tags=("symmetric",)).to_dense(self.point)
        self.products += n
        hessian = (hessian + hessian.mT) / 2
        finite = torch.isfinite(hessian).all(dim=2, keepdim=True).all(dim=1, keepdim=True)
        identity = torch.eye(n, dtype=hessian.dtype, device=hessian.device)
        hessian = torch.where(finite, hessian, identity)
        size = hessian.abs().sum(dim=2).amax(dim=1, keepdim=True)
        length = torch.where(size > 0, 1 / size, self.length)
        free = ~self._held()
        both = free.unsqueeze(1) & free.unsqueeze(2)
        values, vectors = torch.linalg.eigh(torch.where(both, hessian, identity * size.unsqueeze(2)))
        values = torch.maximum(values.abs(), self.eps / length)
        slope = torch.where(free, self.slope, 0.0).unsqueeze(2)
        newton = -(vectors @ ((vectors.mT @ slope) / values.unsqueeze(2))).squeeze(2)
        direction = torch.where(free, newton, -length * self.slope)
        if not self.modelled:
            self.modelled = True
            self.direction, self.free, self.share = direction, free, torch.ones_like(length)
        fresh = self.accepted.unsqueeze(1)
        self.direction = torch.where(fresh, direction, self.direction)
        self.free = torch.where(fresh, free, self.free)
        self.share = torch.where(fresh, 1.0, self.share)
        self.length = length
        self.measure()

    def _held(self) -> Tensor:
        """The entries at a bound, or near one, that would leave the box along minus the gradient."""
        near = torch.minimum(row_norm(self.g), _NEAR * row_norm(self.point).clamp(min=self.eps)).unsqueeze(1)
        lower, upper = self._bounds()
        at_lower = (self.point <= lower + near) & (self.slope > 0)
        return at_lower | ((self.point >= upper - near) & (self.slope < 0))

    def _bounds(self) -> tuple[Tensor, Tensor]:
        """Both bounds, (systems, unknowns)."""
        ravel = self.regulariser.ravel
        leaves = ravel.unflatten_leaves(self.point)
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for part, leaf in zip(self.regulariser.parts, leaves, strict=True):
            assert isinstance(part, Bounds)
            for side, bound, none in zip(sides, part.bounds, (-torch.inf, torch.inf), strict=True):
                side.append(parameter(none if bound is None else bound, leaf) + torch.zeros_like(leaf))
        return ravel.flatten_leaves(sides[0]), ravel.flatten_leaves(sides[1])

    def judge(self, z: Tensor, value: Tensor, slope: Tensor, sound: Tensor) -> Tensor:
        along = torch.where(self.free, -self.share * self.direction, self.point - z)
        predicted = _ARMIJO * (self.slope * along).sum(dim=1)
        falls = value <= self.value - predicted
        # Where the fall is round-off, the residual is to become smaller.
        residual = row_norm(self.proximal_step(z, slope, self.length) - z)
        flat = (predicted <= self.slack) & (residual < row_norm(self.g))
        accepted = sound & (falls | flat)
        self.share = torch.where(accepted.unsqueeze(1), self.share, self.share / 2)
        return accepted
