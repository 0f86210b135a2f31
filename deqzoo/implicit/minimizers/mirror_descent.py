"""Mirror descent on the simplex."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..constraints.parameters import parameter
from ..constraints.sets import Simplex
from ..constraints.trees import Regulariser, map_leaves
from ..fixed_point_solvers.base import Function
from ..linear_solvers.base import safe_divide
from .constrained import ConstrainedMinimizer, ConstrainedSearch

_GROWTH = 1.5  # of the step length after a step that was taken
_SMALL = 1e-4  # relative change, for which two terms of a series do
_TOUCH = 1e-3  # relative: by which a model may be missed


@dataclasses.dataclass(frozen=True)
class MirrorDescent(ConstrainedMinimizer):
    """Exponentiated gradient on the simplex: y <- y exp(-s grad f(y)), scaled to the simplex's sum.

    Steps are measured by the relative entropy: s is such that f(y') <= f(y) + grad f(y) . (y' - y) + KL(y', y) / s. All
    iterates are above zero, so f may have an entropy in it; entries that are 0 at the solution come near it linearly,
    and end as a number that is negligible. A start has entries of at least sqrt(eps) of the mean.

    Source: Beck, Teboulle, "Mirror descent and nonlinear projected subgradient methods for convex optimization", 2003;
    Lu, Freund, Nesterov, "Relatively smooth convex optimization by first-order methods", 2018.

    >>> from deqzoo.implicit import Simplex
    >>> c, y0 = torch.tensor([2.0, 1.0, 0.0]).double(), torch.ones(3).double()
    >>> MirrorDescent()(lambda y: (c * y + y * y.log()).sum(), y0, constraint=Simplex()).value  # softmax(-c)
    tensor([0.0900, 0.2447, 0.6652], dtype=torch.float64)
    """

    def check_regulariser(self, regulariser: Regulariser) -> None:
        """As `ConstrainedMinimizer.check_regulariser`."""
        if not all(isinstance(part, Simplex) for part in regulariser.parts):
            raise TypeError("MirrorDescent needs constraint=Simplex(...); ProximalGradient() takes any set or penalty")

    def feasible(self, part: Any, z0: Any, batch_dims: int) -> Any:
        """As `ConstrainedMinimizer.feasible`: in the inside of the simplex."""
        projected = super().feasible(part, z0, batch_dims)

        def lifted(y: Tensor) -> Tensor:
            total = y.sum(dim=-1, keepdim=True)
            y = torch.maximum(y, torch.finfo(y.dtype).eps ** 0.5 * total / y.shape[-1])
            return y * (total / y.sum(dim=-1, keepdim=True))

        return map_leaves(lifted, projected)

    def descent(self, g: Function, values: list[Tensor], regulariser: Regulariser) -> ConstrainedSearch:
        """As `ConstrainedMinimizer.descent`."""
        return _MirrorDescent(values, regulariser)


class _MirrorDescent(ConstrainedSearch):
    def next_trial(self) -> Tensor:
        return self.proximal_step(self.point, self.slope, self.length)

    def proximal_step(self, z: Tensor, slope: Tensor, length: Tensor) -> Tensor:
        ravel = self.regulariser.ravel
        leaves, falls = ravel.unflatten_leaves(z), ravel.unflatten_leaves(length * slope)
        return ravel.flatten_leaves(exponentiated_step(self.regulariser.parts, leaves, falls))

    def judge(self, z: Tensor, value: Tensor, slope: Tensor, sound: Tensor) -> Tensor:
        entropy = _relative_entropy(z, self.point)
        gap = self.gap(value, slope, z - self.point, self.value, self.slope)
        length = self.length.squeeze(1)
        accepted = sound & ~(gap * length > (1 + _TOUCH) * entropy)
        fitting = 0.9 * safe_divide(entropy, gap)  # the length at which the model would just hold
        shorter = torch.minimum(length / 2, torch.where(fitting > 0, fitting, length / 2))
        longer = (_GROWTH * length).clamp(max=self._huge)
        self.length = torch.where(accepted, longer, shorter.nan_to_num(nan=0.0)).unsqueeze(1)
        return accepted


def _relative_entropy(z: Tensor, start: Tensor) -> Tensor:
    """KL(z, start) = sum z log(z / start) - z + start, (systems,), to the last digits where z is near the start too."""
    change = safe_divide(z - start, start)
    near = change.abs() < _SMALL
    exact = (1 + change) * torch.where(near, 0.0, change).log1p().nan_to_num(neginf=0.0) - change  # 1 where z is 0
    return (start * torch.where(near, change.square() * (0.5 - change / 6), exact)).sum(dim=1)


def exponentiated_step(parts: Sequence[Any], leaves: Sequence[Tensor], falls: Sequence[Tensor]) -> list[Tensor]:
    """y exp(-fall), scaled to the sum of its simplex, for each y and fall (..., n)."""
    found = []
    for part, y, fall in zip(parts, leaves, falls, strict=True):
        if not isinstance(part, Simplex):
            raise TypeError(f"mirror descent needs a Simplex for each tensor, got {part!r}")
        weights = y * torch.exp(fall.detach().amin(dim=-1, keepdim=True) - fall)
        found.append(weights * (parameter(part.total, y) / weights.sum(dim=-1, keepdim=True)))
    return found
