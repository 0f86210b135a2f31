"""The absolute value of a symmetric matrix, whose derivatives do not mind equal eigenvalues."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..linear_solvers.base import safe_divide


def matrix_abs(Y: Tensor) -> Tensor:
    """|Y|, the positive semidefinite X with X^2 = Y^2, of symmetric matrices (..., n, n).

        X dX + dX X = Y dY + dY Y

    The derivative through eigenvectors, which torch has, divides by differences of eigenvalues; here stand their
    absolute values' sums. Where both are 0 the derivative is taken for 0.

    >>> matrix_abs(torch.tensor([[3.0, 0.0], [0.0, -2.0]])).round(decimals=5)
    tensor([[3., 0.],
            [0., 2.]])
    """
    return _MatrixAbs.apply(Y)  # type: ignore[no-any-return]


def _lyapunov(X: Tensor, B: Tensor) -> Tensor:
    """The symmetric Z with X Z + Z X = B, of a positive semidefinite X and a symmetric B."""
    return _Lyapunov.apply(X, B)  # type: ignore[no-any-return]


def _eigh(Y: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, NaN where a matrix is not finite, at which `torch.linalg.eigh` raises."""
    finite = torch.isfinite(Y).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.where(finite, Y, 0.0))
    return torch.where(finite.squeeze(-1), values, torch.nan), vectors


class _MatrixAbs(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(Y: Tensor) -> Tensor:
        values, vectors = _eigh(Y)
        return (vectors * values.abs().unsqueeze(-2)) @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        Y, X = ctx.saved_tensors
        Z = _lyapunov(X, (g + g.mT) / 2)
        return Y @ Z + Z @ Y

    @staticmethod
    def jvp(ctx: Any, dY: Tensor) -> Tensor:
        Y, X = ctx.saved_tensors
        dY = (dY + dY.mT) / 2
        return _lyapunov(X, Y @ dY + dY @ Y)


class _Lyapunov(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(X: Tensor, B: Tensor) -> Tensor:
        values, vectors = _eigh(X)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        largest = sums.amax(dim=(-2, -1), keepdim=True)
        sums = torch.where(sums > torch.finfo(X.dtype).eps * largest, sums, 0.0)
        return vectors @ safe_divide(vectors.mT @ B @ vectors, sums) @ vectors.mT

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
        X, Z = ctx.saved_tensors
        to_B = _lyapunov(X, (g + g.mT) / 2)
        return -(to_B @ Z + Z @ to_B), to_B

    @staticmethod
    def jvp(ctx: Any, dX: Tensor, dB: Tensor) -> Tensor:
        X, Z = ctx.saved_tensors
        right = dB - (dX @ Z + Z @ dX)
        return _lyapunov(X, (right + right.mT) / 2)
