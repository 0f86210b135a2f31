"""Matrices of a structure by which they multiply and are solved with at less cost than dense ones.

Each holds its entries as tensors with any leading batch axes, is differentiable in them, and takes vectors (..., n).
`as_operator` makes a `LinearOperator` of one whose preconditioner is the exact inverse: any linear solver then takes a
step or two. So it serves as a preconditioner for a matrix nearby as well.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .linear_solve import linear_solve
from .operator import LinearOperator


class StructuredMatrix(ABC):
    """Base of the matrices with a structure."""

    @abstractmethod
    def times(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def solve(self, b: Tensor) -> Tensor:
        """A^-1 b."""

    @property
    @abstractmethod
    def T(self) -> StructuredMatrix:
        """The transposed matrix."""

    def as_operator(self, tags: tuple[str, ...] = ()) -> LinearOperator:
        """As products on (systems, n), with the inverse for a preconditioner."""
        return LinearOperator(self.times, self.T.times, tags, preconditioner=self.solve)

    def to_dense(self, n: int) -> Tensor:
        """The matrix written out, (..., n, n), one without batch axes or with those of its entries."""
        columns = [self.times(unit) for unit in torch.eye(n, dtype=self._like.dtype, device=self._like.device)]
        return torch.stack(columns, dim=-1)

    @property
    @abstractmethod
    def _like(self) -> Tensor:
        """One of its tensors."""


@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal(StructuredMatrix):
    """diag(entries), entries (..., n).

    >>> Diagonal(torch.tensor([2.0, 4.0])).solve(torch.tensor([2.0, 2.0]))
    tensor([1.0000, 0.5000])
    """

    entries: Tensor

    def times(self, x: Tensor) -> Tensor:
        """A x."""
        return self.entries * x

    def solve(self, b: Tensor) -> Tensor:
        """A^-1 b."""
        return b / self.entries

    @property
    def T(self) -> Diagonal:
        """The transposed matrix."""
        return self

    @property
    def _like(self) -> Tensor:
        return self.entries


@dataclasses.dataclass(frozen=True, eq=False)
class Tridiagonal(StructuredMatrix):
    """Entries `lower` (..., n - 1), `diagonal` (..., n) and `upper` (..., n - 1), solved in log2(n) parallel steps.

    Without pivoting: for matrices that are diagonally dominant, or symmetric positive definite.

    Source: Hockney, Jesshope, "Parallel Computers", 1981 (parallel cyclic reduction).

    >>> one = torch.ones(2)
    >>> Tridiagonal(one, 4 * torch.ones(3), one).solve(torch.tensor([5.0, 6.0, 5.0]))
    tensor([1., 1., 1.])
    """

    lower: Tensor
    diagonal: Tensor
    upper: Tensor

    def times(self, x: Tensor) -> Tensor:
        """A x."""
        before, after = self.lower * x[..., :-1], self.upper * x[..., 1:]
        return self.diagonal * x + _padded(before, 1, 0) + _padded(after, 0, 1)

    def solve(self, b: Tensor) -> Tensor:
        """A^-1 b."""
        lower, diagonal, upper = _padded(self.lower, 1, 0), self.diagonal, _padded(self.upper, 0, 1)
        reach = 1
        while reach < diagonal.shape[-1]:  # each step doubles the distance of the unknowns that an equation couples
            before, after = -lower / _from(diagonal, -reach, 1.0), -upper / _from(diagonal, reach, 1.0)
            diagonal, b, lower, upper = (
                diagonal + before * _from(upper, -reach) + after * _from(lower, reach),
                b + before * _from(b, -reach) + after * _from(b, reach),
                before * _from(lower, -reach),
                after * _from(upper, reach),
            )
            reach *= 2
        return b / diagonal

    @property
    def T(self) -> Tridiagonal:
        """The transposed matrix."""
        return Tridiagonal(self.upper, self.diagonal, self.lower)

    @property
    def _like(self) -> Tensor:
        return self.diagonal


@dataclasses.dataclass(frozen=True, eq=False)
class BlockDiagonal(StructuredMatrix):
    """Square `blocks` (..., count, size, size) along the diagonal, each factorised by itself.

    >>> BlockDiagonal(torch.tensor([[[2.0]], [[4.0]]])).solve(torch.tensor([2.0, 2.0]))
    tensor([1.0000, 0.5000])
    """

    blocks: Tensor

    def times(self, x: Tensor) -> Tensor:
        """A x."""
        return (self.blocks @ self._split(x).unsqueeze(-1)).squeeze(-1).flatten(-2)

    def solve(self, b: Tensor) -> Tensor:
        """A^-1 b."""
        return linear_solve(self.blocks, self._split(b)).flatten(-2)

    @property
    def T(self) -> BlockDiagonal:
        """The transposed matrix."""
        return BlockDiagonal(self.blocks.mT)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, self.blocks.shape[-3:-1])

    @property
    def _like(self) -> Tensor:
        return self.blocks


@dataclasses.dataclass(frozen=True, eq=False)
class LowRankPlusDiagonal(StructuredMatrix):
    """diag(entries) + U V', entries (..., n), U and V (..., n, rank): solved by the formula of Woodbury.

    >>> one = torch.ones(2, 1)
    >>> LowRankPlusDiagonal(torch.ones(2), one, one).solve(torch.tensor([3.0, 3.0]))
    tensor([1., 1.])
    """

    entries: Tensor
    U: Tensor
    V: Tensor

    def times(self, x: Tensor) -> Tensor:
        """A x."""
        return self.entries * x + _apply(self.U, _apply(self.V.mT, x))

    def solve(self, b: Tensor) -> Tensor:
        """A^-1 b."""
        scaled = self.U / self.entries.unsqueeze(-1)
        small = torch.eye(self.U.shape[-1], dtype=self.U.dtype, device=self.U.device) + self.V.mT @ scaled
        inner = b / self.entries
        return inner - _apply(scaled, linear_solve(small, _apply(self.V.mT, inner)))

    @property
    def T(self) -> LowRankPlusDiagonal:
        """The transposed matrix."""
        return LowRankPlusDiagonal(self.entries, self.V, self.U)

    @property
    def _like(self) -> Tensor:
        return self.entries


@dataclasses.dataclass(frozen=True, eq=False)
class Kronecker(StructuredMatrix):
    """The Kronecker product of `left` (..., p, p) and `right` (..., q, q): x (..., p q) is a matrix (p, q), row by row.

    >>> eye = torch.eye(2)
    >>> Kronecker(2 * eye, eye).solve(torch.tensor([2.0, 4.0, 6.0, 8.0]))
    tensor([1., 2., 3., 4.])
    """

    left: Tensor
    right: Tensor

    def times(self, x: Tensor) -> Tensor:
        """A x."""
        return (self.left @ self._matrix(x) @ self.right.mT).flatten(-2)

    def solve(self, b: Tensor) -> Tensor:
        """A^-1 b."""
        rows = linear_solve(self.right.unsqueeze(-3), self._matrix(b))
        return linear_solve(self.left.unsqueeze(-3), rows.mT).mT.flatten(-2)

    @property
    def T(self) -> Kronecker:
        """The transposed matrix."""
        return Kronecker(self.left.mT, self.right.mT)

    def _matrix(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.left.shape[-1], self.right.shape[-1]))

    @property
    def _like(self) -> Tensor:
        return self.left


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def _padded(x: Tensor, before: int, after: int) -> Tensor:
    return torch.nn.functional.pad(x, (before, after))


def _from(x: Tensor, offset: int, fill: float = 0.0) -> Tensor:
    """x[..., i + offset] at i, `fill` beyond the ends."""
    if offset < 0:
        return torch.nn.functional.pad(x[..., :offset], (-offset, 0), value=fill)
    return torch.nn.functional.pad(x[..., offset:], (0, offset), value=fill)
