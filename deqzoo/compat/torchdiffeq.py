"""`odeint` and `odeint_adjoint` as torchdiffeq has them: ``from deqzoo.compat.torchdiffeq import odeint``.

The methods dopri5, dopri8, bosh3, euler, midpoint and rk4 are deqzoo's, and differentiable to any order; the others
that torchdiffeq has are left to that package. These differ: rk4 is the classical method, where torchdiffeq has the
3/8 rule; with a step_size each interval between two times is parted evenly, where torchdiffeq interpolates between
steps; a solve that fails raises `NonConvergenceError`, which is no AssertionError; events are
`deqzoo.implicit.odeint_event`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from deqzoo import implicit
from deqzoo.implicit import Backsolve, Direct, Dopri5, Dopri8, ODESolver, TorchDiffEq
from deqzoo.implicit.ode.solvers import RK4, Bosh3, Euler, Midpoint

METHODS: dict[str, type[ODESolver]] = {
    "dopri5": Dopri5,
    "dopri8": Dopri8,
    "bosh3": Bosh3,
    "euler": Euler,
    "midpoint": Midpoint,
    "rk4": RK4,
}
_FIXED = "euler", "midpoint", "rk4"
_OPTIONS = {"first_step": "first_step", "max_num_steps": "max_steps", "max_step": "max_step", "jump_t": "jump_times"}
_FIXED_OPTIONS = {"step_size": "step_size"}


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
) -> Any:
    """The solution of dy/dt = func(t, y) at the times t, (len(t), *shape) for each tensor of y0.

    Args:
        func: `func(t, y)`, of y's structure.
        y0: a tensor or a tuple of tensors.
        t: times, (n,), increasing or decreasing.
        rtol, atol: tolerances.
        method: dopri5 by default.
        options: first_step, max_num_steps, max_step and jump_t of adaptive methods, step_size of the others.
        event_fn: refused; see `deqzoo.implicit.odeint_event`.

    >>> import torch
    >>> odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), method="dopri5", rtol=1e-6, atol=1e-8)[-1]
    tensor([0.3679, 0.3679])
    """
    solver = _solver(method or "dopri5", rtol, atol, options or {}, event_fn)
    adjoint = Direct() if isinstance(solver, TorchDiffEq) else None
    return implicit.odeint(func, y0, t, solver=solver, adjoint=adjoint, on_failure="raise")


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: Tensor,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    method: str | None = None,
    options: dict[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
    adjoint_rtol: float | None = None,
    adjoint_atol: float | None = None,
    adjoint_method: str | None = None,
    adjoint_options: dict[str, Any] | None = None,
    adjoint_params: Any = None,
) -> Any:
    """As `odeint`, with gradients by the adjoint equation, solved backwards in time.

    Every tensor that `func` reads gets its gradient, so that ``adjoint_params`` need not be given. ``adjoint_method``
    is the method of the forward solve; of ``adjoint_options`` there is ``{"norm": "seminorm"}``.
    """
    chosen = method or "dopri5"
    if adjoint_method not in (None, chosen):
        raise ValueError(f"adjoint_method={adjoint_method!r}: the adjoint is solved by the forward's method, {chosen}")
    others = {key: value for key, value in (adjoint_options or {}).items() if (key, value) != ("norm", "seminorm")}
    if others:
        raise ValueError(f"adjoint_options has {', '.join(others)}; supported is {{'norm': 'seminorm'}}")
    solver = _solver(chosen, rtol, atol, options or {}, event_fn)
    adjoint = Backsolve(seminorm=bool(adjoint_options), rtol=adjoint_rtol, atol=adjoint_atol)
    return implicit.odeint(func, y0, t, solver=solver, adjoint=adjoint, on_failure="raise")


def _solver(
    method: str, rtol: float, atol: float, options: dict[str, Any], event_fn: Callable[..., Any] | None
) -> ODESolver:
    if event_fn is not None:
        raise ValueError("event_fn is not supported here: deqzoo.implicit.odeint_event solves until an event")
    if method not in METHODS:
        return TorchDiffEq(method=method, rtol=rtol, atol=atol, options=options or None)
    names = _FIXED_OPTIONS if method in _FIXED else _OPTIONS
    if unknown := sorted(set(options) - set(names)):
        raise ValueError(f"options has {', '.join(unknown)}; {method} has {', '.join(names)}")
    own = {names[key]: value for key, value in options.items() if value is not None}
    if "jump_times" in own:
        own["jump_times"] = tuple(float(time) for time in own["jump_times"])
    tolerances = {} if method in _FIXED else {"rtol": rtol, "atol": atol, "max_steps": 2**31 - 1}
    return METHODS[method](**{**tolerances, **own})
