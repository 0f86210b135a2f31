"""Convex penalties h: what may stand after `penalty=` of `argmin`, each by its proximal operator."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from . import proximal
from .parameters import Parameter, ordered


class Penalty(ABC):
    """Base of the penalties: a frozen dataclass of parameters with the methods `prox` and `terms`.

    Parameters are numbers or tensors that broadcast against y, so that one number per vector has the shape (..., 1);
    tensors get gradients.

    Attributes:
        axes: how many of the last axes of y it ties together: 0 (each entry by itself), 1 (vectors), 2 (matrices).

    A quadratic one:

    >>> class Ridge(Penalty):
    ...     axes = 0
    ...     def prox(self, y, step=1.0):
    ...         return y / (1 + step)
    ...     def terms(self, y):
    ...         return y**2 / 2
    >>> y = torch.tensor([2.0, 4.0])
    >>> Ridge().prox(y), Ridge().value(y)
    (tensor([1., 2.]), tensor(10.))
    """

    axes: ClassVar[int] = 1

    @abstractmethod
    def prox(self, y: Tensor, step: Parameter = 1.0) -> Tensor:
        """argmin ||x - y||^2 / (2 step) + h(x), for a step above 0 that broadcasts against y."""

    @abstractmethod
    def terms(self, y: Tensor) -> Tensor:
        """Terms whose sum is h(y): one for each entry, vector or matrix, with the batch axes of y leading."""

    def value(self, y: Tensor, batch_dims: int = 0) -> Tensor:
        """h(y), of the shape of the leading `batch_dims` axes."""
        terms = self.terms(y)
        rest = tuple(range(batch_dims, terms.dim()))
        return terms.sum(dim=rest) if rest else terms


@dataclasses.dataclass(frozen=True, eq=False)
class NormPenalty(Penalty):
    """Base of the penalties strength * norm."""

    strength: Parameter = 1.0

    def __post_init__(self) -> None:
        ordered(0.0, self.strength, "the strength of a penalty must not be negative")


@dataclasses.dataclass(frozen=True, eq=False)
class L1(NormPenalty):
    """strength sum |x_i|.

    >>> L1(2.0).prox(torch.tensor([3.0, -0.5]), 0.5), L1(2.0).value(torch.tensor([3.0, -0.5]))
    (tensor([2., 0.]), tensor(7.))
    """

    axes: ClassVar[int] = 0

    def prox(self, y: Tensor, step: Parameter = 1.0) -> Tensor:
        """See `proximal.l1`."""
        return proximal.l1(y, self.strength * step)

    def terms(self, y: Tensor) -> Tensor:
        """As `Penalty.terms`."""
        return self.strength * y.abs()


@dataclasses.dataclass(frozen=True, eq=False)
class ElasticNet(NormPenalty):
    """strength sum |x_i| + ridge ||x||^2 / 2."""

    ridge: Parameter = 1.0

    axes: ClassVar[int] = 0

    def prox(self, y: Tensor, step: Parameter = 1.0) -> Tensor:
        """See `proximal.elastic_net`."""
        return proximal.elastic_net(y, self.strength * step, self.ridge * step)

    def terms(self, y: Tensor) -> Tensor:
        """As `Penalty.terms`."""
        return self.strength * y.abs() + self.ridge * y.square() / 2


@dataclasses.dataclass(frozen=True, eq=False)
class L2Norm(NormPenalty):
    """strength ||x||, along the last axis: the vector is 0 as a whole, or no entry is."""

    def prox(self, y: Tensor, step: Parameter = 1.0) -> Tensor:
        """See `proximal.l2`."""
        return proximal.l2(y, self.strength * step)

    def terms(self, y: Tensor) -> Tensor:
        """As `Penalty.terms`."""
        return self.strength * torch.linalg.vector_norm(y, dim=-1, keepdim=True)


@dataclasses.dataclass(frozen=True, eq=False)
class GroupLasso(Penalty):
    """sum_g strength_g ||x_g||, where `groups` (n,) has the number g = 0, 1, ... of each entry's group.

    The strength is a number or a tensor (..., n), one number for each entry, equal within a group.
    """

    groups: Tensor
    strength: Parameter = 1.0

    def __post_init__(self) -> None:
        ordered(0.0, self.strength, "the strength of a penalty must not be negative")

    def prox(self, y: Tensor, step: Parameter = 1.0) -> Tensor:
        """See `proximal.group_lasso`."""
        return proximal.group_lasso(y, self.groups, self.strength * step)

    def terms(self, y: Tensor) -> Tensor:
        """As `Penalty.terms`: each entry has its share of its group's norm."""
        sizes = proximal.group_sums(torch.ones_like(y), self.groups)
        return self.strength * proximal.group_sums(y.square(), self.groups).sqrt() / sizes


@dataclasses.dataclass(frozen=True, eq=False)
class NuclearNorm(NormPenalty):
    """strength times the sum of the singular values of matrices (..., m, n); a strength per matrix is (..., 1, 1)."""

    axes: ClassVar[int] = 2

    def prox(self, y: Tensor, step: Parameter = 1.0) -> Tensor:
        """See `proximal.nuclear_norm`."""
        return proximal.nuclear_norm(y, self.strength * step)

    def terms(self, y: Tensor) -> Tensor:
        """As `Penalty.terms`."""
        return self.strength * torch.linalg.svdvals(y).sum(dim=-1, keepdim=True).unsqueeze(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class TotalVariation(NormPenalty):
    """strength sum |x_{i+1} - x_i|, along the last axis."""

    def prox(self, y: Tensor, step: Parameter = 1.0) -> Tensor:
        """See `proximal.total_variation`."""
        return proximal.total_variation(y, self.strength * step)

    def terms(self, y: Tensor) -> Tensor:
        """As `Penalty.terms`."""
        return self.strength * y.diff(dim=-1).abs()
