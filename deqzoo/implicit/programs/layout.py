"""How the matrix of a cone program is stored: whole, or as the values at the places that are not zero."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

from torch import Tensor

from .program import times


@dataclasses.dataclass(frozen=True)
class Whole:
    """A matrix (..., m, n) as it is."""

    def times(self, A: Tensor, x: Tensor) -> Tensor:
        """A x."""
        return times(A, x)

    def times_transposed(self, A: Tensor, y: Tensor) -> Tensor:
        """A' y."""
        return times(A.mT, y)

    def dense(self, A: Tensor) -> Tensor:
        """A as (..., m, n)."""
        return A

    def compressed(self, A: Tensor) -> Any:
        """One matrix (m, n) in SciPy's form of compressed columns."""
        from scipy.sparse import csc_matrix

        return csc_matrix(A.numpy())


@dataclasses.dataclass(frozen=True, eq=False)
class Sparse:
    """A matrix of the given shape by its values (..., nonzeros) at `rows` and `columns`."""

    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    def times(self, values: Tensor, x: Tensor) -> Tensor:
        """A x."""
        return _scatter(values * x[..., self.columns], self.rows, self.shape[0])

    def times_transposed(self, values: Tensor, y: Tensor) -> Tensor:
        """A' y."""
        return _scatter(values * y[..., self.rows], self.columns, self.shape[1])

    def dense(self, values: Tensor) -> Tensor:
        """The matrix as (..., m, n)."""
        places = self.rows * self.shape[1] + self.columns
        return _scatter(values, places, self.shape[0] * self.shape[1]).unflatten(-1, self.shape)

    def compressed(self, values: Tensor) -> Any:
        """One matrix in SciPy's form of compressed columns; no two of the values stand at one place."""
        order, pattern = self._pattern
        matrix = copy.copy(pattern)  # a tenth of the time of a new one, whose form would be checked
        matrix.data = values.numpy()[order]
        return matrix

    @functools.cached_property
    def _pattern(self) -> tuple[Any, Any]:
        """The order of the values column by column, and a matrix of ones at their places."""
        import numpy as np
        from scipy.sparse import csc_matrix

        rows, columns = self.rows.cpu().numpy(), self.columns.cpu().numpy()
        order = np.lexsort((rows, columns))
        ends = np.searchsorted(columns[order], np.arange(self.shape[1] + 1))
        return order, csc_matrix((np.ones(len(rows)), rows[order], ends), shape=self.shape)


def _scatter(terms: Tensor, places: Tensor, size: int) -> Tensor:
    return terms.new_zeros(*terms.shape[:-1], size).index_add(-1, places, terms)
