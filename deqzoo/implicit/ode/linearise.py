"""The Jacobian of a field, and the linear systems with I - gamma h J that the methods for stiff problems solve."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..operator import pullback, rows_of
from .counted_field import CountedField
from .stage_values import Length


class Linearised(NamedTuple):
    """A field at one point: f (systems, unknowns), df/dt likewise, and df/dy (systems, unknowns, unknowns)."""

    value: Tensor
    slope: Tensor
    matrix: Tensor


def linearise(field: CountedField, t: Tensor, y: Tensor, rows: Tensor | None) -> Linearised:
    """f and its derivatives at (t, y), differentiable where autograd records: a call of f, and one per unknown.

    Systems that share the time have a slope each all the same.
    """
    n = y.shape[1]
    (value,), vjp = pullback(lambda point: (field.evaluate(point[0], point[1], rows),), (t, y))
    if not t.dim() and len(y) > 1 and n:
        field.calls += n
        with torch.enable_grad():  # u -> u df/dt is linear, and its derivative is the slope
            (_, back) = pullback(lambda u: (vjp((u[0],))[0],), (torch.zeros_like(y),))
        return Linearised(value, back((torch.ones_like(t),))[0], rows_of(lambda u: vjp((u,))[1], y))

    def both(u: Tensor) -> Tensor:
        of_t, of_y = vjp((u,))
        return torch.cat([of_t.reshape(-1, 1), of_y], dim=1)

    field.calls += n
    derivatives = rows_of(both, y)
    if not n:
        return Linearised(value, torch.zeros_like(y), derivatives)
    return Linearised(value, derivatives[:, :, 0], derivatives[:, :, 1:])


def jacobian(field: CountedField, t: Tensor, y: Tensor, rows: Tensor | None) -> Tensor:
    """df/dy alone, (systems, unknowns, unknowns), at the same cost."""
    _, vjp = pullback(lambda point: (field.evaluate(t, point[0], rows),), (y,))
    field.calls += y.shape[1]
    return rows_of(lambda u: vjp((u,))[0], y)


class Factors:
    """An LU factorisation of I - gh J, a matrix per system."""

    def __init__(self, matrix: Tensor, gh: Length) -> None:
        scale = gh if isinstance(gh, float) else gh.unsqueeze(2)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        self._lu, self._pivots, _ = torch.linalg.lu_factor_ex(eye - scale * matrix)

    def solve(self, b: Tensor) -> Tensor:
        """(I - gh J)^-1 b, (systems, unknowns); not finite where the matrix is singular."""
        return torch.linalg.lu_solve(self._lu, self._pivots, b.unsqueeze(2)).squeeze(2)
