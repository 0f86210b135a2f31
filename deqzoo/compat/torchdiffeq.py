"""`odeint` and `odeint_adjoint` as torchdiffeq has them: ``from deqzoo.compat.torchdiffeq import odeint``.

The methods dopri5, dopri8, bosh3, euler, midpoint and rk4 are deqzoo's, and those of `odeint` are differentiable to any
order. What deqzoo has not is left to the package torchdiffeq, as it is: its other methods, events that end a solve
(``event_fn``; see also `deqzoo.implicit.odeint_event`), norms and step sizes of the user's own, an adjoint by another
method. These differ: rk4 is the classical method, where torchdiffeq has the 3/8 rule; with a step_size each interval
between two times is parted evenly, where torchdiffeq interpolates between steps; a solve by deqzoo that fails raises
`NonConvergenceError`, which is no AssertionError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from deqzoo import implicit
from deqzoo.implicit import Backsolve, Dopri5, Dopri8, ODESolver
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
_THEIR_OPTIONS = ("norm", "min_step", "step_t", "safety", "ifactor", "dfactor", "dtype")  # of adaptive methods
_THEIR_FIXED_OPTIONS = ("grid_constructor", "interp", "perturb", "norm")


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
        options: first_step, max_num_steps, max_step and jump_t of adaptive methods, step_size of the others; with any
            other one torchdiffeq solves.
        event_fn: `event_fn(t, y)`, whose zero ends the solve, by torchdiffeq; its time, which has no gradient there,
            and the states are returned. `deqzoo.implicit.odeint_event` differentiates the time, too.

    Raises:
        ValueError: an option that neither has.

    >>> import torch
    >>> odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]), method="dopri5", rtol=1e-6, atol=1e-8)[-1]
    tensor([0.3679, 0.3679])
    """
    solver = _solver(method or "dopri5", rtol, atol, options or {})
    if solver is None or event_fn is not None:
        import torchdiffeq

        their: dict[str, Any] = {"rtol": rtol, "atol": atol, "method": method, "options": options}
        return torchdiffeq.odeint(func, y0, t, event_fn=event_fn, **their)
    return implicit.odeint(func, y0, t, solver=solver, on_failure="raise")


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

    Every tensor that `func` reads gets its gradient, so that ``adjoint_params`` need not be given; what torchdiffeq
    solves has them as there: those of `func`, if it is a module, or these. It solves where `odeint` leaves the call to
    it, with an ``adjoint_method`` other than the forward's, and with ``adjoint_options`` other than
    ``{"norm": "seminorm"}``.
    """
    chosen = method or "dopri5"
    solver = _solver(chosen, rtol, atol, options or {})
    ours = adjoint_method in (None, chosen) and not _others(adjoint_options or {}) and event_fn is None
    if solver is None or not ours:
        import torchdiffeq

        their: dict[str, Any] = {"rtol": rtol, "atol": atol, "method": method, "options": options}
        their |= {"adjoint_rtol": adjoint_rtol, "adjoint_atol": adjoint_atol, "adjoint_method": adjoint_method}
        their |= {"adjoint_options": adjoint_options, "adjoint_params": adjoint_params, "event_fn": event_fn}
        return torchdiffeq.odeint_adjoint(func, y0, t, **their)
    seminorm = (adjoint_options or {}).get("norm") == "seminorm"
    adjoint = Backsolve(seminorm=seminorm, rtol=adjoint_rtol, atol=adjoint_atol)
    return implicit.odeint(func, y0, t, solver=solver, adjoint=adjoint, on_failure="raise")


def _others(adjoint_options: Mapping[str, Any]) -> set[str]:
    """Those that `Backsolve` has not."""
    return {key for key, value in adjoint_options.items() if key != "norm" or value not in ("seminorm", None)}


def _solver(method: str, rtol: float, atol: float, options: Mapping[str, Any]) -> ODESolver | None:
    """Ours, or None if this is to be solved by torchdiffeq."""
    if method not in METHODS:
        return None
    fixed = method in _FIXED
    names, theirs = (_FIXED_OPTIONS, _THEIR_FIXED_OPTIONS) if fixed else (_OPTIONS, _THEIR_OPTIONS)
    if unknown := sorted(set(options) - set(names) - set(theirs)):
        raise ValueError(f"options has {', '.join(unknown)}; {method} has {', '.join([*names, *theirs])}")
    own = {names.get(key, key): value for key, value in options.items() if value is not None and value is not False}
    if not set(own) <= set(names.values()):
        return None
    if "jump_times" in own:
        own["jump_times"] = tuple(float(time) for time in own["jump_times"])
    tolerances = {} if fixed else {"rtol": rtol, "atol": atol, "max_steps": 2**31 - 1}
    return METHODS[method](**{**tolerances, **own})
