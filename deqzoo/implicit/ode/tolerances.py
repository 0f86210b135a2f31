"""Tolerances of each component: what users give, and the matrices that errors are measured by."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..modes import host_flags
from ..pytree import Ravel
from .solvers import Adaptive, ODESolver


def with_matrices(solver: ODESolver, ravel: Ravel) -> ODESolver:
    """The solver, whose tolerances are numbers or matrices, (systems, unknowns), or (1, unknowns) where all share them.

    Raises:
        ValueError: one has another shape than the state, or both are zero at some component.
    """
    given: dict[str, Any] = {name: getattr(solver, name, 0.0) for name in ("rtol", "atol")}
    if all(isinstance(x, (int, float)) for x in given.values()):
        return solver
    found = {name: _matrix(name, x, ravel) for name, x in given.items()}
    if not host_flags(torch.as_tensor(found["rtol"] + found["atol"] > 0))[0][1]:
        raise ValueError("rtol and atol must not both be zero at a component of the state: give one of them there")
    result = copy.copy(solver)
    for name, x in found.items():
        object.__setattr__(result, name, x)
    return result


def _matrix(name: str, tolerance: Any, ravel: Ravel) -> float | Tensor:
    if isinstance(tolerance, (int, float)):
        return float(tolerance)
    if isinstance(tolerance, Tensor) and not tolerance.dim():
        leaves: list[Any] = [tolerance] * len(ravel.shapes)
    else:
        try:
            leaves = ravel.structure.flatten_up_to(tolerance)
        except ValueError:
            raise ValueError(
                f"{name} must be a number, or a pytree of the state's structure, with a number or a tensor for each of "
                f"its tensors, got a {type(tolerance).__name__}"
            ) from None
    pairs = getattr(ravel, "pairs", [False] * len(leaves))
    each = [_leaf(name, *x, ravel) for x in zip(leaves, ravel.shapes, pairs, strict=True)]
    matrix = ravel.flatten_leaves(tuple(leaf for leaf, _ in each))
    return matrix if any(own for _, own in each) else matrix[:1]


def _leaf(name: str, tolerance: Any, shape: torch.Size, pair: bool, ravel: Ravel) -> tuple[Tensor, bool]:
    """A tolerance of a tensor's shape, and whether samples have tolerances of their own."""
    shape = shape[:-1] if pair else shape
    if not isinstance(tolerance, (int, float, Tensor)):
        raise ValueError(
            f"{name} must be of the structure of the state, whose leaf of shape {tuple(shape)} is one tensor: give a "
            f"number or a tensor for it, got a {type(tolerance).__name__}"
        )
    x = torch.as_tensor(tolerance, dtype=ravel.dtype, device=ravel.device).detach()
    try:
        whole = x.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{name} of shape {tuple(x.shape)} does not broadcast to a state of shape {tuple(shape)}: give a number, "
            "or an entry for each component (with batch_dims=1 with or without the leading batch axis)"
        ) from None
    whole = whole.unsqueeze(-1).expand(*shape, 2) if pair else whole
    return whole, ravel.batch_dims == 1 and x.dim() == len(shape) and x.shape[0] > 1


def scale(solver: Adaptive, size: Tensor, rows: Tensor | None = None, least: float = 0.0) -> Tensor:
    """atol + rtol size: what errors are divided by.

    Args:
        solver: see `with_matrices`.
        size: absolute values of states, (rows, unknowns); or of the first unknowns alone.
        rows: which systems these are; None: all.
        least: relative tolerance.
    """
    rtol, atol = (_of(x, size, rows) for x in (solver.rtol, solver.atol))
    if least:
        rtol = rtol.clamp(min=least) if isinstance(rtol, Tensor) else max(rtol, least)
    result: Tensor = size * rtol + atol
    return result


def _of(tolerance: Any, size: Tensor, rows: Tensor | None) -> Any:
    if not isinstance(tolerance, Tensor):
        return tolerance
    tolerance = tolerance if rows is None or len(tolerance) == 1 else tolerance[rows]
    return tolerance[:, : size.shape[1]].to(size.dtype)
