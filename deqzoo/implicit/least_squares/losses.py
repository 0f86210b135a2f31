"""Losses of a residual: the square, and robust ones, which let outliers count for less."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss s^2 rho((r / s)^2) / 2 of each residual r, which is r^2 / 2 for a small one.

    Args:
        scale: s > 0, the size from which on a residual is an outlier.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")

    def __call__(self, residual: Tensor) -> Tensor:
        """The loss of each residual."""
        return self.scale**2 / 2 * self.rho((residual / self.scale).square())

    @abstractmethod
    def rho(self, z: Tensor) -> Tensor:
        """rho(z), increasing, with rho(z) = z near 0."""

    @abstractmethod
    def weight(self, z: Tensor) -> Tensor:
        """rho'(z): the slope of the loss is that times r."""

    @abstractmethod
    def curvature(self, z: Tensor) -> Tensor:
        """The second derivative of the loss, rho' + 2 z rho'', where it is positive, else 0; in terms of z."""


@dataclasses.dataclass(frozen=True)
class Square(Loss):
    """r^2 / 2."""

    def rho(self, z: Tensor) -> Tensor:
        """As `Loss.rho`."""
        return z

    def weight(self, z: Tensor) -> Tensor:
        """As `Loss.weight`."""
        return torch.ones_like(z)

    def curvature(self, z: Tensor) -> Tensor:
        """As `Loss.curvature`."""
        return torch.ones_like(z)


@dataclasses.dataclass(frozen=True)
class Huber(Loss):
    """r^2 / 2 up to |r| = s, then s |r| - s^2 / 2: a straight line.

    >>> Huber(scale=2.0)(torch.tensor([1.0, 4.0]))
    tensor([0.5000, 6.0000])
    """

    def rho(self, z: Tensor) -> Tensor:
        """As `Loss.rho`."""
        return torch.where(z <= 1, z, 2 * z.clamp(min=1).sqrt() - 1)

    def weight(self, z: Tensor) -> Tensor:
        """As `Loss.weight`."""
        return z.clamp(min=1) ** -0.5

    def curvature(self, z: Tensor) -> Tensor:
        """As `Loss.curvature`."""
        return (z <= 1).to(z.dtype)


@dataclasses.dataclass(frozen=True)
class SoftL1(Loss):
    """s^2 (sqrt(1 + (r / s)^2) - 1): a smooth form of `Huber`."""

    def rho(self, z: Tensor) -> Tensor:
        """As `Loss.rho`."""
        return 2 * ((1 + z).sqrt() - 1)

    def weight(self, z: Tensor) -> Tensor:
        """As `Loss.weight`."""
        return (1 + z) ** -0.5

    def curvature(self, z: Tensor) -> Tensor:
        """As `Loss.curvature`."""
        return (1 + z) ** -1.5


@dataclasses.dataclass(frozen=True)
class Cauchy(Loss):
    """s^2 / 2 log(1 + (r / s)^2): outliers count for almost nothing. It is not convex: the start matters."""

    def rho(self, z: Tensor) -> Tensor:
        """As `Loss.rho`."""
        return torch.log1p(z)

    def weight(self, z: Tensor) -> Tensor:
        """As `Loss.weight`."""
        return 1 / (1 + z)

    def curvature(self, z: Tensor) -> Tensor:
        """As `Loss.curvature`."""
        return ((1 - z) / (1 + z) ** 2).clamp(min=0)


LOSSES: dict[str, type[Loss]] = {"square": Square, "huber": Huber, "soft_l1": SoftL1, "cauchy": Cauchy}
