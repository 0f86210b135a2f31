"""Check that the result of a black-box solver satisfies the condition that it is said to solve."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .linear_solvers.base import row_norm, safe_divide
from .modes import host_flags, is_single


def unsatisfied(
    F: Tensor, y: Tensor, transposed: Callable[[Tensor], Tensor], allowed: float
) -> tuple[Tensor, Tensor] | None:
    """The systems that are far from F = 0, and how far relative to ||y||, both (systems,); None: all are near.

    F has no scale of its own, so it is measured by `newton_distance`. Near is `allowed` times ||y||, or the square root
    of the round-off.

    Args:
        F: the residuals, (systems, unknowns).
        y: the unknowns, likewise.
        transposed: u -> A^T u, A = dF/dy.
        allowed: relative to ||y||.
    """
    info = torch.finfo(y.dtype)
    floor = (info.eps * y.shape[1]) ** 0.5
    if is_single(y):  # the short way, in Python's numbers
        size, norm = (torch.linalg.vector_norm(x).item() for x in (F, y))
        if info.tiny**0.4 < size < info.max**0.4:  # squares of its size do as they are
            slope = torch.linalg.vector_norm(transposed(F)).item()
            if size * size <= (allowed * norm + floor) * slope:
                return None
        elif size == 0:
            return None
    norm, move = row_norm(y), newton_distance(F, transposed)
    near = move <= allowed * norm + floor
    if host_flags(near)[0][1]:
        return None
    return ~near, move / norm.clamp(min=info.eps)


def newton_distance(F: Tensor, transposed: Callable[[Tensor], Tensor]) -> Tensor:
    """How far y must move at least, to first order, to change its F (systems, unknowns) by all of it: (systems,).

    ||F||^2 / ||A^T F||, with u -> A^T u, A = dF/dy.
    """
    size = row_norm(F)
    slope = row_norm(transposed(safe_divide(F, size.unsqueeze(1))))
    return torch.where(size == 0, size, size / slope)
