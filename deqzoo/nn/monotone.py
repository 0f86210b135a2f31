"""Cells whose equilibrium exists, is unique and is found by operator splitting: those of monDEQs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class MonotoneCell(nn.Module):
    """f(z, x) = relu(W z + x), where W = (1 - m) I - A^T A + B - B^T has I - W >= m I for whatever A and B.

    A cell is a `deqzoo.implicit.MonotoneMap`, so that operator splitting finds its equilibrium: `PeacemanRachford` with
    any step length, whatever the weights, `ForwardBackward` with a short one. A subclass says what A and B are, by
    `weight`, `multiply` and `inverse`.

    Args:
        margin: m, above 0: the strong monotonicity. The larger, the faster the solves, and the less W can do.

    Source: Winston, Kolter, "Monotone operator equilibrium networks", 2020.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        if not margin > 0:
            raise ValueError(f"margin={margin} must be above 0: else there may be no equilibrium, or many")
        self.margin = margin

    def weight(self, x: Any) -> Any:
        """W for injections like x, made of the parameters of this moment in the form that `multiply` wants."""
        raise TypeError(f"{type(self).__name__} does not define weight()")

    def multiply(self, weight: Any, z: Any) -> Any:
        """W z."""
        raise TypeError(f"{type(self).__name__} does not define multiply()")

    def inverse(self, alpha: float, x: Any, weight: Any) -> Callable[[Any], Any]:
        """v -> (I + alpha (I - W))^-1 v, with what can be inverted beforehand done once."""
        raise TypeError(f"{type(self).__name__} does not define inverse()")

    def inject(self, v: Any, x: Any) -> Any:
        """v + x."""
        return v + x

    def forward(self, z: Any, x: Any, weight: Any = None) -> Any:
        """f(z, x); `weight` saves making it anew."""
        return self.prox(self.affine(z, x, self.weight(x) if weight is None else weight))

    def affine(self, z: Any, x: Any, weight: Any) -> Any:
        """W z + x."""
        return self.inject(self.multiply(weight, z), x)

    def prox(self, v: Any, alpha: float = 1.0) -> Any:
        """relu(v), the projection onto z >= 0, which is the proximal operator of its indicator for every alpha."""
        return v.relu()

    def resolvent(self, alpha: float, x: Any, weight: Any) -> Callable[[Any], Any]:
        """v -> (I + alpha (I - W))^-1 (v + alpha x)."""
        inverse = self.inverse(alpha, x, weight)
        scaled = alpha * x
        return lambda v: inverse(self.inject(v, scaled))


class MonotoneLinear(MonotoneCell):
    """The cell with dense A and B, on states (batch, features).

    Args:
        features: width of the state.
        margin: see `MonotoneCell`.

    >>> cell = MonotoneLinear(5, margin=0.5)
    >>> W = cell.weight(torch.zeros(1, 5))
    >>> bool(torch.linalg.eigvalsh(torch.eye(5) - (W + W.T) / 2).min() > 0.499)
    True
    """

    def __init__(self, features: int, margin: float = 1.0) -> None:
        super().__init__(margin)
        self.symmetric = nn.Parameter(torch.empty(features, features))  # A
        self.skew = nn.Parameter(torch.empty(features, features))  # B
        for matrix in (self.symmetric, self.skew):
            nn.init.uniform_(matrix, -(features**-0.5), features**-0.5)

    def weight(self, x: Tensor) -> Tensor:
        """W, (features, features)."""
        return with_margin(self.margin, self.symmetric, self.skew)

    def multiply(self, weight: Tensor, z: Tensor) -> Tensor:
        """As `MonotoneCell.multiply`."""
        return z @ weight.T

    def inverse(self, alpha: float, x: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """As `MonotoneCell.inverse`."""
        inverse = shifted_inverse(identity_like(weight) - weight, alpha).T
        return lambda v: v @ inverse


def with_margin(margin: float, a: Tensor, b: Tensor) -> Tensor:
    """(1 - m) I - A^T A + B - B^T, of matrices or of spectra (..., n, n)."""
    return (1 - margin) * identity_like(a) - a.mH @ a + b - b.mH


def shifted_inverse(matrix: Tensor, alpha: float) -> Tensor:
    """(I + alpha M)^-1, of matrices or of spectra (..., n, n); it is there where M + M^T >= 0."""
    return torch.linalg.inv(identity_like(matrix) + alpha * matrix)


def identity_like(matrix: Tensor) -> Tensor:
    """I, (n, n), for matrices or spectra (..., n, n)."""
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
