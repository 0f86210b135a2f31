"""A quadratic program as data: its six arrays, checked, with one batch axis and the constraints stacked."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

_NAMES = ("P", "q", "A", "b", "G", "h")


class PrimalDual(NamedTuple):
    """The solution of a program: min 1/2 x'Px + q'x subject to Ax = b, Gx + s = h, s >= 0.

    Attributes:
        x: the unknowns, (..., n).
        equality_duals: y of Ax = b, (..., p), with Px + q + A'y + G'z = 0.
        inequality_duals: z >= 0 of Gx <= h, (..., m).
        slacks: s = h - Gx >= 0, (..., m), with s_i z_i = 0.
    """

    x: Tensor
    equality_duals: Tensor
    inequality_duals: Tensor
    slacks: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class QuadraticProgram:
    """min 1/2 x'Px + q'x subject to Cx + s = d, with s = 0 in the first `equalities` rows and s >= 0 in the others.

    Attributes:
        P, C: (n, n) and (k, n) where all programs share them, else (programs, n, n) and (programs, k, n).
        q, d: (programs, n) and (programs, k).
        equalities: the number of equalities.
    """

    P: Tensor
    q: Tensor
    C: Tensor
    d: Tensor
    equalities: int

    @classmethod
    def of(cls, arguments: tuple[Tensor, ...], batch_shape: torch.Size) -> QuadraticProgram:
        """The program of (P, q, A, b, G, h), as `complete` returns them."""
        P, q, A, b, G, h = arguments
        if max(A.dim(), G.dim()) > 2 and A.shape[-2] and G.shape[-2]:
            C = torch.cat([A.expand(*batch_shape, *A.shape[-2:]), G.expand(*batch_shape, *G.shape[-2:])], dim=-2)
        else:
            C = torch.cat([A, G], dim=-2) if A.shape[-2] and G.shape[-2] else A if A.shape[-2] else G
        d = torch.cat([t.expand(*batch_shape, t.shape[-1]) for t in (b, h)], dim=-1)
        systems = batch_shape.numel()
        return cls(
            _one_axis(P, batch_shape),
            q.expand(*batch_shape, q.shape[-1]).reshape(systems, q.shape[-1]),
            _one_axis(C, batch_shape),
            d.reshape(systems, d.shape[-1]),
            A.shape[-2],
        )


def _one_axis(matrix: Tensor, batch_shape: torch.Size) -> Tensor:
    if matrix.dim() == 2:
        return matrix
    rows, columns = matrix.shape[-2:]
    return matrix.expand(*batch_shape, rows, columns).reshape(math.prod(batch_shape), rows, columns)


def times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector, (..., k): a matrix without batch axes is shared by all vectors."""
    if matrix.dim() == 2:
        return vector @ matrix.mT
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def complete(
    P: Tensor, q: Tensor, A: Tensor | None, b: Tensor | None, G: Tensor | None, h: Tensor | None
) -> tuple[tuple[Tensor, ...], torch.Size]:
    """The six arrays, empty ones where there is no such constraint, and the shape of the batch.

    Raises:
        TypeError: if one is no tensor, not float32 or float64, or of another dtype or device than the others.
        ValueError: if shapes do not fit, or a matrix comes without its right-hand side.
    """
    for left, right, names in ((A, b, "A and b"), (G, h, "G and h")):
        if (left is None) != (right is None):
            raise ValueError(f"{names} belong together: pass both or neither")
    given = [t for t in (P, q, A, b, G, h) if t is not None]
    for name, t in zip(_NAMES, (P, q, A, b, G, h), strict=True):
        if t is None:
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(t).__name__}; take torch.as_tensor of it")
        if t.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} must be float32 or float64, got {t.dtype}")
        if t.dtype != given[0].dtype or t.device != given[0].device:
            raise TypeError(
                f"P, q, A, b, G, h must have one dtype and device: {name} has {t.dtype} on {t.device}, the first "
                f"{given[0].dtype} on {given[0].device}"
            )
    if q.dim() < 1 or q.shape[-1] < 1:
        raise ValueError(f"q must have shape (..., n) with n >= 1, got {tuple(q.shape)}")
    n = q.shape[-1]
    A, b = (q.new_zeros(0, n), q.new_zeros(0)) if A is None or b is None else (A, b)
    G, h = (q.new_zeros(0, n), q.new_zeros(0)) if G is None or h is None else (G, h)
    arguments = (P, q, A, b, G, h)
    expected = ((n, n), (n,), (b.shape[-1:] or (0,)) + (n,), b.shape[-1:], (h.shape[-1:] or (0,)) + (n,), h.shape[-1:])
    for name, t, shape in zip(_NAMES, arguments, expected, strict=True):
        if t.dim() < len(shape) or len(shape) == 0 or t.shape[t.dim() - len(shape) :] != shape:
            sizes = ", ".join(map(str, shape)) or "rows"
            raise ValueError(f"{name} must have shape (..., {sizes}) beside the others, got {tuple(t.shape)}")
    try:
        shapes = [t.shape[: t.dim() - len(shape)] for t, shape in zip(arguments, expected, strict=True)]
        return arguments, torch.broadcast_shapes(*shapes)
    except RuntimeError:
        found = ", ".join(f"{name} {tuple(s)}" for name, s in zip(_NAMES, shapes, strict=True))
        raise ValueError(f"the leading axes must be equal or missing, got {found}") from None
