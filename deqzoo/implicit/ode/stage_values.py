"""A tableau as tensors, and the stage values of a step, in a buffer or on the tape."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .tableaus import Row, Tableau

Length = float | Tensor  # of a step: one number, or (systems, 1)
_QUADRATIC = 3  # stages from which the start of another is extrapolated


class Coefficients:
    """A tableau as tensors."""

    def __init__(self, tableau: Tableau, like: Tensor) -> None:
        def tensor(values: Any) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        count = len(tableau.a)
        self.a = [tensor(row[:i]) for i, row in enumerate(tableau.a)]
        self.b = tensor(tableau.b)
        self.b_list = [*tableau.b, *[0.0] * (count - len(tableau.b))]
        # Column j, from the next row on: what later stages took from stage j.
        padded = [[*row[:i], *[0.0] * (count - min(i, len(row)))] for i, row in enumerate(tableau.a)]
        self.columns = [tensor([padded[i][j] for i in range(j + 1, count)]) for j in range(count)]
        self.guess = [tensor(row) for row in guesses(tableau)] if any(map(tableau.diagonal, range(count))) else []
        self.couplings = [tensor(row) for row in getattr(tableau, "couplings", ())]
        self.error, self.error3, self.dense = tensor(tableau.error), tensor(tableau.error3), tensor(tableau.dense)


@functools.lru_cache(maxsize=64)
def _coefficients(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> Coefficients:
    with torch.inference_mode(False):
        return Coefficients(tableau, torch.empty((), dtype=dtype, device=device))


def coefficients(tableau: Tableau, like: Tensor) -> Coefficients:
    """The tableau in the dtype and on the device of a tensor."""
    return _coefficients(tableau, like.dtype, like.device)


class Buffer:
    """Stage values in one tensor, stage by stage, so that a weighted sum of them is one product. Keeps no tape."""

    def __init__(self, count: int, like: Tensor) -> None:
        self.shape, self.filled = like.shape, 0
        self._k = like.new_empty(count, like.numel())

    def put(self, i: int, value: Tensor) -> None:
        """Keep k_i."""
        self._k[i] = value.reshape(-1)
        self.filled = i + 1

    def put_first(self, values: Tensor) -> None:
        """Keep the first stages, (stages, systems, unknowns)."""
        self.filled = len(values)
        self._k[: self.filled] = values.flatten(1)

    def get(self, i: int) -> Tensor:
        """k_i, a view."""
        return self._k[i].view(self.shape)

    def rows(self, count: int) -> Tensor:
        """The first stage values, (count, systems, unknowns), a view."""
        return self._k[:count].view(count, *self.shape)

    def sum(self, weights: Tensor) -> Tensor:
        """sum_j w_j k_j."""
        return torch.mv(self._k[: len(weights)].T, weights).view(self.shape)

    def advance(self, y: Tensor, h: Length, weights: Tensor) -> Tensor:
        """y + h sum_j w_j k_j."""
        if isinstance(h, float):
            k = self._k[: len(weights)]
            return torch.addmv(y.reshape(-1), k.T, weights, alpha=h).view(self.shape)
        return torch.addcmul(y, h, self.sum(weights))

    def back(self, i: int, column: Tensor, u: Tensor, b: float) -> Tensor:
        """b u + sum_(j > i) a_ji mu_j, where the buffer holds mu of the later stages."""
        later = self._k[i + 1 : i + 1 + len(column)]
        return torch.addmv(u.reshape(-1), later.T, column, beta=b).view(self.shape)

    def total(self, u: Tensor) -> Tensor:
        """u plus the sum of all that is kept."""
        return u + self._k.sum(dim=0).view(self.shape)


class Tape:
    """Stage values in a list, summed by operations that autograd and `torch.func` can see."""

    def __init__(self, count: int, like: Tensor) -> None:
        self.shape = like.shape
        self._k: list[Tensor] = []

    @property
    def filled(self) -> int:
        """Stages that are known."""
        return len(self._k)

    def put(self, i: int, value: Tensor) -> None:
        """Keep k_i."""
        self._k.append(value)

    def get(self, i: int) -> Tensor:
        """k_i."""
        return self._k[i]

    def rows(self, count: int) -> Tensor:
        """The first stage values, (count, systems, unknowns)."""
        return torch.stack(self._k[:count])

    def sum(self, weights: Tensor) -> Tensor:
        """sum_j w_j k_j."""
        return (weights @ self.rows(len(weights)).flatten(1)).view(self.shape)

    def advance(self, y: Tensor, h: Length, weights: Tensor) -> Tensor:
        """y + h sum_j w_j k_j."""
        if isinstance(h, float):
            return torch.add(y, self.sum(weights), alpha=h)
        return torch.addcmul(y, h, self.sum(weights))


Stages = Buffer | Tape


def dense_weights(co: Coefficients, theta: Tensor) -> Tensor:
    """Weights of the stages at fractions theta (points,) of a step: (points, stages)."""
    powers = torch.arange(1, co.dense.shape[1] + 1, dtype=theta.dtype, device=theta.device)
    return (theta.unsqueeze(1) ** powers) @ co.dense.T.to(theta.dtype)


def guesses(tableau: Tableau) -> list[Row]:
    """Weights with which the k of a stage is extrapolated from those before it, up to three of them, in time."""
    rows: list[Row] = []
    for i, c in enumerate(tableau.c):
        nodes = tableau.c[: min(i, _QUADRATIC)]
        if c in tableau.c[1:i]:
            rows.append(tuple(float(j == tableau.c.index(c)) for j in range(i)))
            continue
        row = []
        for j, node in enumerate(nodes):
            weight = 1.0
            for other in (*nodes[:j], *nodes[j + 1 :]):
                weight *= (c - other) / (node - other)
            row.append(weight)
        rows.append(tuple(row))
    return rows
