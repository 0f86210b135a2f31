"""The weights of Anderson acceleration, from the Gram matrix of the last differences of the residual."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..modes import is_single
from ..rows import products


def gram_matrix(like: Tensor, depth: int, ridge: float) -> Gram | GramOfOne:
    """For states like this one, (systems, unknowns)."""
    return GramOfOne(ridge) if is_single(like) else Gram(like, depth, ridge)


class Gram:
    """dG dG^T of each system, updated by one row per step.

    Args:
        like: a state, (systems, unknowns).
        depth: differences at most.
        ridge: added to the diagonal once that is scaled to one.
    """

    def __init__(self, like: Tensor, depth: int, ridge: float) -> None:
        self.ridge = ridge
        self.entries = like.new_zeros(like.shape[0], depth, depth)
        self.against_last = like.new_zeros(like.shape[0], depth)

    def weights(self, dg: Tensor, slot: int, g: Tensor) -> Tensor:
        """w of min ||g - dG^T w||, (systems, kept), where dG (systems, kept, unknowns) is new at `slot`."""
        kept = dg.shape[1]
        new = dg[:, slot]
        against = products(dg, g)
        column = against - self.against_last[:, :kept]  # <dG, g - last g>, without a second pass over the history
        column[:, slot] = products(new.unsqueeze(1), new).squeeze(1)
        self.against_last[:, :kept] = against
        self.entries[:, slot, :kept] = column
        self.entries[:, :kept, slot] = column
        gram = self.entries[:, :kept, :kept]
        scale = gram.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(gram.dtype).tiny).rsqrt()
        scaled = gram * scale.unsqueeze(1) * scale.unsqueeze(2)
        scaled.diagonal(dim1=1, dim2=2).add_(self.ridge)
        weights, _ = torch.linalg.solve_ex(scaled, (against * scale).unsqueeze(2))
        return weights.squeeze(2) * scale


class GramOfOne:
    """The same of a single system on the CPU, in Python's numbers, which takes less time."""

    def __init__(self, ridge: float) -> None:
        self.ridge = ridge
        self.entries: list[list[float]] = []

    def weights(self, dg: Tensor, slot: int, g: Tensor) -> Tensor:
        """As `Gram.weights`."""
        rows = dg[0]
        column, against = torch.mv(rows, rows[slot]).tolist(), torch.mv(rows, g[0]).tolist()
        if slot == len(self.entries):
            for row, entry in zip(self.entries, column, strict=False):
                row.append(entry)
            self.entries.append(column)
        else:
            self.entries[slot] = column
            for row, entry in zip(self.entries, column, strict=True):
                row[slot] = entry
        scale = [1 / math.sqrt(row[i]) if row[i] > 0 else 0.0 for i, row in enumerate(self.entries)]
        places = range(len(scale))
        scaled = [[self.entries[i][j] * scale[i] * scale[j] for j in places] for i in places]
        for i in places:
            scaled[i][i] += self.ridge
        weights = solve_definite(scaled, [against[i] * scale[i] for i in places])
        return g.new_tensor([[weights[i] * scale[i] for i in places]])


def solve_definite(a: list[list[float]], b: list[float]) -> list[float]:
    """The solution of A x = b for a positive definite A, which is overwritten; a pivot that is not positive gives 0."""
    n = len(b)
    for k in range(n):
        top = a[k]
        for i in range(k + 1, n if top[k] > 0 else 0):
            row = a[i]
            factor = row[k] / top[k]
            for j in range(k + 1, n):
                row[j] -= factor * top[j]
            b[i] -= factor * b[k]
    x = [0.0] * n
    for k in reversed(range(n)):
        if a[k][k] > 0:
            x[k] = (b[k] - sum(a[k][j] * x[j] for j in range(k + 1, n))) / a[k][k]
    return x
