"""Convex sets: what may stand after `constraint=` of `argmin`, each by its Euclidean projection."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from . import projections
from .parameters import Parameter, ordered


class Constraint(ABC):
    """Base of the sets: a frozen dataclass of parameters with a method `project`.

    Parameters are numbers or tensors that broadcast against y, so that one number per vector has the shape (..., 1);
    tensors get gradients.

    Attributes:
        axes: how many of the last axes of y it ties together: 0 (each entry by itself), 1 (vectors), 2 (matrices).

    The vectors of a plane through zero:

    >>> import torch
    >>> class Balanced(Constraint):
    ...     axes = 1
    ...     def project(self, y):
    ...         return y - y.mean(dim=-1, keepdim=True)
    >>> Balanced().project(torch.tensor([1.0, 3.0]))
    tensor([-1., 1.])
    """

    axes: ClassVar[int] = 1

    @abstractmethod
    def project(self, y: Tensor) -> Tensor:
        """argmin ||x - y|| over x in the set."""


class Bounds(Constraint):
    """Base of the sets lower <= x <= upper, of which a method for bounds may make use."""

    axes: ClassVar[int] = 0

    @property
    @abstractmethod
    def bounds(self) -> tuple[Parameter | None, Parameter | None]:
        """(lower, upper); None: no such bound."""

    def project(self, y: Tensor) -> Tensor:
        """See `projections.box`."""
        return projections.box(y, *self.bounds)


@dataclasses.dataclass(frozen=True, eq=False)
class Box(Bounds):
    """lower <= x <= upper; None: no such bound.

    >>> import torch
    >>> Box(upper=2.0).project(torch.tensor([-1.0, 3.0]))
    tensor([-1., 2.])
    """

    lower: Parameter | None = None
    upper: Parameter | None = None

    def __post_init__(self) -> None:
        ordered(self.lower, self.upper, "the lower bounds of a box must not lie above the upper ones")

    @property
    def bounds(self) -> tuple[Parameter | None, Parameter | None]:
        """As `Bounds.bounds`."""
        return self.lower, self.upper


@dataclasses.dataclass(frozen=True, eq=False)
class NonNegative(Bounds):
    """x >= 0."""

    @property
    def bounds(self) -> tuple[Parameter | None, Parameter | None]:
        """As `Bounds.bounds`."""
        return 0.0, None


@dataclasses.dataclass(frozen=True, eq=False)
class Simplex(Constraint):
    """x >= 0, sum x = total, along the last axis.

    >>> import torch
    >>> Simplex().project(torch.tensor([1.5, 1.0, 0.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """

    total: Parameter = 1.0

    def __post_init__(self) -> None:
        ordered(0.0, self.total, "the sum of a simplex must not be negative")

    def project(self, y: Tensor) -> Tensor:
        """See `projections.simplex`."""
        return projections.simplex(y, self.total)


@dataclasses.dataclass(frozen=True, eq=False)
class Ball(Constraint):
    """Base of the balls of a norm along the last axis."""

    radius: Parameter = 1.0

    def __post_init__(self) -> None:
        ordered(0.0, self.radius, "the radius of a ball must not be negative")


@dataclasses.dataclass(frozen=True, eq=False)
class L1Ball(Ball):
    """sum |x_i| <= radius, along the last axis."""

    def project(self, y: Tensor) -> Tensor:
        """See `projections.l1_ball`."""
        return projections.l1_ball(y, self.radius)


@dataclasses.dataclass(frozen=True, eq=False)
class L2Ball(Ball):
    """||x|| <= radius, along the last axis."""

    def project(self, y: Tensor) -> Tensor:
        """See `projections.l2_ball`."""
        return projections.l2_ball(y, self.radius)


@dataclasses.dataclass(frozen=True, eq=False)
class LInfBall(Bounds):
    """max |x_i| <= radius."""

    radius: Parameter = 1.0

    def __post_init__(self) -> None:
        ordered(0.0, self.radius, "the radius of a ball must not be negative")

    @property
    def bounds(self) -> tuple[Parameter | None, Parameter | None]:
        """As `Bounds.bounds`."""
        return -self.radius, self.radius


@dataclasses.dataclass(frozen=True, eq=False)
class Hyperplane(Constraint):
    """normal . x = offset, with a normal (..., n)."""

    normal: Tensor
    offset: Parameter = 0.0

    def project(self, y: Tensor) -> Tensor:
        """See `projections.hyperplane`."""
        return projections.hyperplane(y, self.normal, self.offset)


@dataclasses.dataclass(frozen=True, eq=False)
class HalfSpace(Constraint):
    """normal . x <= offset, with a normal (..., n)."""

    normal: Tensor
    offset: Parameter = 0.0

    def project(self, y: Tensor) -> Tensor:
        """See `projections.half_space`."""
        return projections.half_space(y, self.normal, self.offset)


@dataclasses.dataclass(frozen=True, eq=False)
class AffineSet(Constraint):
    """A x = b, with A (..., m, n) and b (..., m)."""

    A: Tensor
    b: Tensor

    def project(self, y: Tensor) -> Tensor:
        """See `projections.affine_set`."""
        return projections.affine_set(y, self.A, self.b)


@dataclasses.dataclass(frozen=True, eq=False)
class SecondOrderCone(Constraint):
    """||x|| <= t, for vectors (t, x) along the last axis."""

    def project(self, y: Tensor) -> Tensor:
        """See `projections.second_order_cone`."""
        return projections.second_order_cone(y)


@dataclasses.dataclass(frozen=True, eq=False)
class SemidefiniteCone(Constraint):
    """Symmetric positive semidefinite matrices (..., n, n)."""

    axes: ClassVar[int] = 2

    def project(self, y: Tensor) -> Tensor:
        """See `projections.semidefinite_cone`."""
        return projections.semidefinite_cone(y)


@dataclasses.dataclass(frozen=True, eq=False)
class TransportPolytope(Constraint):
    """Matrices x >= 0, (..., m, n), of row sums `rows` (..., m) and column sums `columns` (..., n)."""

    rows: Tensor
    columns: Tensor

    axes: ClassVar[int] = 2

    def project(self, y: Tensor) -> Tensor:
        """See `projections.transport_polytope`."""
        return projections.transport_polytope(y, self.rows, self.columns)
