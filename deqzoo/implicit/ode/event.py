"""Solving until an event: its time is the root of a condition, so its gradient is an implicit one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..api import root
from ..modes import eager, no_derivatives
from ..pytree import map_tensors
from ..root_solvers import Newton
from ..solution import OnFailure, Status
from .adjoints import Adjoint
from .odeint import odeint
from .solvers import OdeSolver, Tsit5


@eager
def odeint_event(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor,
    event: Callable[..., Tensor],
    *args: Any,
    solver: OdeSolver | None = None,
    adjoint: Adjoint | None = None,
    scan: int = 100,
    tol: float | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
) -> Any:
    """Solve dy/dt = f(t, y, *args) from t[0] until event(t, y, *args) = 0 for the first time, at the latest to t[1].

    The event's time t* is a function of everything else by the condition event(t*, y(t*)) = 0, and differentiated by
    the implicit function theorem; so is the state y(t*).

    Args:
        f, y0, args, solver, adjoint: as for `odeint`; all of y is one system.
        t: (2,), the start, and how long to wait.
        event: `event(t, y, *args)`, a scalar that changes its sign at the event.
        scan: the event's sign is looked at so many equidistant times; two changes within one interval are missed.
        tol: absolute tolerance of t*, over the span; None: eps^(3/4) of the dtype.
        on_failure: "ignore", "warn" or "raise" when there is no event (status MAX_STEPS; then t* is t[1]).
        return_solution: also return the `Solution` of the search.

    Returns:
        (t*, y(t*)), or (t*, y(t*), solution).

    Source: Chen, Amos, Nickel, "Learning Neural Event Functions for Ordinary Differential Equations", 2021.

    >>> fall = lambda t, y, g: torch.stack([y[1], -g])  # height and speed
    >>> start, g = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor(9.81, dtype=torch.float64)
    >>> g.requires_grad_()
    tensor(9.8100, dtype=torch.float64, requires_grad=True)
    >>> span = torch.tensor([0.0, 5.0], dtype=torch.float64)
    >>> time, y = odeint_event(fall, start, span, lambda t, y, g: y[0], g)
    >>> time.backward()
    >>> time.detach(), g.grad  # sqrt(2 h / g), -t / (2 g)
    (tensor(0.6386, dtype=torch.float64), tensor(-0.0325, dtype=torch.float64))
    """
    solver = Tsit5() if solver is None else solver
    if t.shape != (2,):
        raise ValueError(f"t must be the start and the latest end, shape (2,), got shape {tuple(t.shape)}")
    options = {"solver": solver, "adjoint": adjoint, "on_failure": on_failure}

    def value_at(time: Tensor, y: Any) -> Tensor:
        value = event(time, y, *args)
        if value.numel() != 1:
            raise ValueError(f"event must return one number, got shape {tuple(value.shape)}")
        return value.reshape(())

    def at(time: Tensor, *_: Any) -> Any:
        """y(time): a solve from the start, differentiable in its end."""
        return map_tensors(lambda y: y[-1], odeint(f, y0, torch.stack([t[0], time]), *args, **options))

    with no_derivatives():
        times = torch.linspace(0, 1, scan + 1, dtype=t.dtype, device=t.device) * (t[1] - t[0]) + t[0]
        path, solution = odeint(f, y0, times, *args, **options, return_solution=True)
        values = torch.stack([value_at(time, map_tensors(lambda y, i=i: y[i], path)) for i, time in enumerate(times)])
        crossed = (values[:-1] * values[1:] <= 0) & (values[:-1] != 0)
        found = crossed.nonzero()
        guess = _secant(times, values, int(found[0])) if len(found) else times[-1]
    if not len(found):
        solution.status = torch.where(solution.converged, int(Status.MAX_STEPS), solution.status)
        solution.check(on_failure, "event")
        time = t[1]
    else:
        span = float((t[1] - t[0]).abs())
        tol = torch.finfo(t.dtype).eps ** 0.75 if tol is None else tol
        scale = float((values[found[0] + 1] - values[found[0]]).abs()) * scan / span  # slope of the event
        newton = Newton(tol=tol * span * scale, stop="abs", max_steps=20)
        time, search = root(
            lambda time: value_at(time, at(time)), guess, solver=newton, on_failure=on_failure, return_solution=True
        )
        solution.status, solution.residual, solution.nfe = search.status, search.residual, solution.nfe + search.nfe
    y = at(time)
    return (time, y, solution) if return_solution else (time, y)


def _secant(times: Tensor, values: Tensor, i: int) -> Tensor:
    """Where the line through two neighbouring values is zero."""
    return times[i] - values[i] * (times[i + 1] - times[i]) / (values[i + 1] - values[i])
