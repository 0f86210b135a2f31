"""Output times of each sample's own: the equation in a time that all samples share.

Let sample i have the output times t_0i, ..., t_ni. In s, which is k at the k-th of them and linear in between,

    dy_i/ds = (t_(k+1)i - t_ki) f(t_i(s), y_i),    t_i(s) = t_ki + (s - k) (t_(k+1)i - t_ki)    for k <= s <= k + 1

so that all have the output times 0, ..., n. The factor jumps at these, where steps end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..modes import unwrap
from ..private_api import torch_pytree
from .controllers import EPS, rounding_of, step_count
from .solvers import Adaptive, FixedStep, ODESolver


def in_shared_time(
    f: Callable[..., Any], t: Tensor, solver: ODESolver, systems: int
) -> tuple[Callable[..., Any], Tensor, Tensor, ODESolver]:
    """`f` in the shared time, with the table of the samples' times (batch, times) as its last argument; the shared
    output times, the table, and the solver with its lengths in the shared time.
    """
    _check(t, systems)
    table = t.mT

    def of_shared(s: Tensor, y: Any, *args: Any) -> Any:
        *rest, times = args
        k = s.detach().floor().clamp(0, times.shape[1] - 2).long().unsqueeze(1)
        begin, end = (times.gather(1, index).squeeze(1) for index in (k, k + 1))
        slope = end - begin
        value = f(begin + (s - k.squeeze(1)) * slope, y, *rest)
        return torch_pytree.tree_map(lambda leaf: leaf * slope.to(leaf).reshape(-1, *[1] * (leaf.dim() - 1)), value)

    shared = torch.arange(len(t), dtype=t.dtype, device=t.device)
    return of_shared, shared, table, _scaled(solver, unwrap(t.detach()).reshape(len(t), -1).cpu())


def _check(t: Tensor, systems: int) -> None:
    if t.shape[1] != systems:
        raise ValueError(f"times of each sample have the shape (n, batch), here (n, {systems}), got {tuple(t.shape)}")
    if len(t) < 2:
        raise ValueError("times of each sample must be two or more")
    steps = unwrap(t.detach()).diff(dim=0).reshape(len(t) - 1, -1)
    good = ((steps > 0).all(dim=0) | (steps < 0).all(dim=0)) & steps.isfinite().all(dim=0)
    if not bool(good.all()):
        bad = int((~good).nonzero()[0]) % max(systems, 1)
        raise ValueError(f"the output times of sample {bad} must be finite and strictly increasing, or decreasing")


def _scaled(solver: ODESolver, t: Tensor) -> ODESolver:
    """The solver with lengths that are safe in the shared time: no sample's steps are longer than required."""
    assert isinstance(solver, FixedStep | Adaptive)
    if solver.jump_times:
        raise ValueError("jump_times do not go with times of each sample: solve the samples one by one")
    options: dict[str, Any] = {"jump_times": tuple(map(float, range(1, len(t) - 1)))}
    if t.numel():
        starts, ends = t[:-1].flatten().double(), t[1:].flatten().double()
        longest = int((ends - starts).abs().argmax())
        start, end = float(starts[longest]), float(ends[longest])
        if isinstance(solver, Adaptive):
            given = {name: getattr(solver, name) for name in ("first_step", "max_step")}
            options |= {name: x / abs(end - start) for name, x in given.items() if isinstance(x, int | float)}
        elif solver.step_size is not None:
            eps = torch.finfo(t.dtype).eps if t.is_floating_point() else EPS
            options["step_size"] = 1 / step_count(start, end, solver.step_size, rounding_of([start, end], eps))
    return dataclasses.replace(solver, **options)
