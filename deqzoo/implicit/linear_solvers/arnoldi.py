"""Arnoldi's method: an orthonormal basis of a Krylov space and the small matrix of the operator on it."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rows import Rows, combine, products
from .base import row_norm, safe_divide


class Arnoldi:
    """A V_j = V_{j+1} H_j for each system, V with orthonormal rows, H upper Hessenberg, grown column by column.

    Classical Gram-Schmidt, run twice: two batched products each, and as stable as the modified form (Giraud et al.,
    "The loss of orthogonality in the Gram-Schmidt orthogonalization process", 2005).

    Attributes:
        start_norm: norm of the start vector, (systems,).
        h: (systems, j + 1, j).
    """

    def __init__(self, start: Tensor, limit: int) -> None:
        self.start_norm = row_norm(start)
        self.rows = Rows(start, limit + 1)
        self.count = 0
        self._put(start, self.start_norm)
        self.h = torch.zeros_like(self.start_norm).reshape(-1, 1, 1)[:, :, :0]

    @property
    def newest(self) -> Tensor:
        """The last basis vector, (systems, unknowns): the operator is to be applied to it."""
        return self.rows.first(self.count)[:, -1]

    def extend(self, w: Tensor) -> Tensor:
        """Add w = A newest to the basis; returns the norm of its new part, 0 where the space is exhausted."""
        basis = self.rows.first(self.count)
        once = products(basis, w)
        w = w - combine(basis, once)
        twice = products(basis, w)
        w = w - combine(basis, twice)
        norm = row_norm(w)
        column = torch.cat([once + twice, norm.unsqueeze(1)], dim=1).unsqueeze(2)
        # What is left of w at the level of round-off is no direction.
        norm = torch.where(norm > 10 * torch.finfo(w.dtype).eps * row_norm(column.squeeze(2)), norm, 0 * norm)
        self.h = torch.cat([torch.nn.functional.pad(self.h, (0, 0, 0, 1)), column], dim=2)
        if self.count < self.rows.limit:
            self._put(w, norm)
        return norm

    def combine(self, weights: Tensor) -> Tensor:
        """Weighted sum of the first basis vectors, (systems, j) -> (systems, unknowns)."""
        return combine(self.rows.first(weights.shape[1]), weights)

    def _put(self, w: Tensor, norm: Tensor) -> None:
        self.rows.put(self.count, safe_divide(w, norm.unsqueeze(1)))
        self.count += 1
