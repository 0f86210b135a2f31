"""A solve with fixed steps inside a graph of `torch.compile`: a plain loop, of which nothing is read on the host.

The gradient is by the compiled graph's own backward: that of `Discrete` and `Direct`, which are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..modes import full_precision, in_transform, keep_autocast
from ..pytree import Ravel, map_tensors
from ..solution import Solution, Status
from .adjoints import Direct, Discrete
from .controllers import rounding_of, step_count
from .solvers import FixedStep, is_splitting


def is_traceable(t: Any, solver: Any, adjoint: Any) -> bool:
    """Whether a graph can hold the solve: explicit steps of known number, between times that are numbers."""
    return (
        isinstance(solver, FixedStep)
        and not solver.jump_times
        and not is_splitting(solver)
        and (adjoint is None or isinstance(adjoint, Discrete | Direct))
        and not isinstance(t, Tensor)
        and not in_transform()
    )


def solve_traced(
    f: Callable[..., Any],
    y0: Any,
    t: Sequence[float],
    args: tuple[Any, ...],
    solver: FixedStep,
    batch_dims: int,
    each_time: bool,
) -> tuple[Any, Solution]:
    """As `odeint`, without a look at the values: what is not finite is handed on as it is.

    Args:
        each_time: with batch_dims=1: f gets a time for each system, (batch,).
    """
    ravel = Ravel(y0, batch_dims)
    device = ravel.device.type
    call, tableau, calls = keep_autocast(f, device), solver.tableau, 0

    def slope(time: float, y: Tensor) -> Tensor:
        now = torch.full((ravel.systems,) if each_time else (), time, dtype=ravel.dtype, device=ravel.device)
        return ravel.flatten(call(now, ravel.unflatten(y), *args))

    with full_precision(device):
        y = ravel.flatten(y0)
        values, stages, eps = [y], len(tableau.b), rounding_of(t)
        for start, end in itertools.pairwise(t):
            count = step_count(start, end, solver.step_size, eps)
            h = (end - start) / count
            for step in range(count):
                k: list[Tensor] = []
                for i in range(stages):
                    at = _plus(y, h, tableau.a[i], k)
                    k.append(slope(start + (step + tableau.c[i]) * h, at))
                y, calls = _plus(y, h, tableau.b, k), calls + stages
            values.append(y)
        finite = torch.isfinite(y.detach()).all(dim=1)
    status = ravel.per_system(torch.where(finite, int(Status.CONVERGED), int(Status.DIVERGED)))
    zeros = torch.zeros_like(status)
    # Copies: a graph whose results are parts of one tensor is taken apart wrongly (torch 2.14, `split_with_sizes`).
    result = map_tensors(torch.clone, ravel.unflatten_many(torch.stack(values)))
    steps = torch.full_like(status, calls // stages)
    return result, Solution(result, status, zeros.float(), steps, calls, rejected=zeros)


def _plus(y: Tensor, h: float, weights: Sequence[float], k: Sequence[Tensor]) -> Tensor:
    """y + h sum_j w_j k_j."""
    for weight, slope in zip(weights, k, strict=False):
        if weight:
            y = torch.add(y, slope, alpha=h * weight)
    return y
