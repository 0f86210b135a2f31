"""Solving until an event: its time is the root of a condition, so its gradient is an implicit one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor

from ..api import named
from ..by_name import instance
from ..call_site import warn_once
from ..implicit_function import ImplicitFunction
from ..linear_solvers import Dense
from ..modes import eager, full_precision, host_flags, needs_derivative, no_derivatives, unwrap
from ..operator import pullback
from ..pytree import Tensors, map_tensors, with_keywords
from ..solution import NonConvergenceError, NonConvergenceWarning, OnFailure, Solution, Status
from .adjoints import ODE_ADJOINTS, Discrete, ODEAdjoint
from .crossings import Crossings, EventFunction
from .dense import check_options
from .interpolants import Interpolants
from .odeint import Solve, as_times
from .solvers import ODE_SOLVERS, FixedStep, ODESolver, Tsit5, jumps_of
from .tableaus import Tableau

T = TypeVar("T")

_ADVICE = "Wait longer for the event (t[1]); if the solve failed before it, raise max_steps or try another solver"
_GRAZING = 30  # square roots of rounding, by which the event's slope must exceed 0, in units of its change in a look


@overload
def odeint_event(
    f: Callable[..., Any],
    y0: T,
    t: Tensor | Sequence[float],
    event: Callable[..., Tensor] | Sequence[Callable[..., Tensor]],
    *args: Any,
    return_solution: Literal[False] = False,
    **options: Any,
) -> tuple[Tensor, T]: ...


@overload
def odeint_event(
    f: Callable[..., Any],
    y0: T,
    t: Tensor | Sequence[float],
    event: Callable[..., Tensor] | Sequence[Callable[..., Tensor]],
    *args: Any,
    return_solution: Literal[True],
    **options: Any,
) -> tuple[Tensor, T, Solution]: ...


@eager
def odeint_event(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    event: Callable[..., Tensor] | Sequence[Callable[..., Tensor]],
    *args: Any,
    solver: ODESolver | str | None = None,
    adjoint: ODEAdjoint | str | None = None,
    direction: int | Sequence[int] = 0,
    max_events: int | None = None,
    scan: int = 100,
    batch_dims: int = 0,
    compact: bool = False,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """Solve dy/dt = f(t, y, *args) from t[0] until event(t, y, *args) = 0 for the first time, at the latest to t[1].

    The event is looked for in the dense output of each step, while the solve goes on, and found there to rounding: it
    costs no evaluation of f. An event is a change of sign. One that lies at the start (zero, up to rounding, or within
    some roundings of time) is none: so a solve can go on from an event, as after the bounce of a ball.

    The event's time t* is a function of everything else by the condition event(t*, y(t*)) = 0, and differentiated by
    the implicit function theorem, on top of the derivative of the computed solution; so is the state y(t*):

        dt* = -(d event / dt along the solution)^-1 d event

    to any order, in y0, t, `args`, and in what f and the event read besides. Where the event grazes zero, so that the
    derivative in the bracket is zero too, that of t* does not exist: there is a warning, and the gradient is infinite.

    Args:
        f, y0, args, solver, compact: as for `odeint`. A method with fixed steps, but without `step_size`, takes `scan`.
        t: (2,), the start, and how long to wait; time may run backwards.
        event: `event(t, y, *args)`, a number; or several, in a vector or by a list of functions: the first to take
            place counts.
        adjoint: `Discrete()` by default; `Direct`.
        direction: 1: the event is a change from negative to positive, in the order in which the solve goes; -1: from
            positive to negative; 0: either. One for all events, or one for each.
        max_events: do not stop at the first event, but go on to the end, or to this number of them; the times are then
            (max_events,), in their order, NaN after the last.
        scan: times in the span at which the sign is checked, at equal distances within each step, and at four per step
            at least; two changes between two of them are missed.
        batch_dims: 0: y is one system; 1: each leading index is, with a time t* of its own: f and the event get times
            (batch,), and the event returns (batch,), or (batch, events).
        on_failure: "ignore", "warn" or "raise" when there is no event (status MAX_STEPS; then t* is t[1]), or when the
            solve fails before it (see `odeint`; then t* and y are NaN), where its sign changes but its value does not
            vanish (STALLED: a jump), or where it grazes zero.
        return_solution: also return the `Solution`: its value is (t*, y), `residual` the event's absolute value there,
            `event` the number of the event that took place, -1 for none. With `max_events` to come to the end is no
            failure.
        kwargs: go to f and to the events by name; tensors among them get gradients, as those among `args` do.

    Returns:
        (t*, y(t*)), or (t*, y(t*), solution). t* is of shape (), with batch_dims=1 (batch,), in t's dtype, and with
        `max_events` one axis more, the first; y's leaves get that axis too.

    Source: Chen, Amos, Nickel, "Learning Neural Event Functions for Ordinary Differential Equations", 2021. The search:
    Oliveira, Takahashi, "An Enhancement of the Bisection Method Average Performance Preserving Minmax Optimality",
    2020.

    >>> fall = lambda t, y, g: torch.stack([y[1], -g])  # height and speed
    >>> start, g = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor(9.81, dtype=torch.float64)
    >>> g.requires_grad_()
    tensor(9.8100, dtype=torch.float64, requires_grad=True)
    >>> time, y = odeint_event(fall, start, [0.0, 5.0], lambda t, y, g: y[0], g)
    >>> time.backward()
    >>> time.detach(), g.grad  # sqrt(2 h / g), -t / (2 g)
    (tensor(0.6386, dtype=torch.float64), tensor(-0.0325, dtype=torch.float64))

    The zeros of a cosine, those where it falls:

    >>> turn = lambda t, y: torch.stack([y[1], -y[0]])
    >>> options = {"direction": -1, "max_events": 3, "solver": Tsit5(rtol=1e-9, atol=1e-9)}
    >>> odeint_event(turn, torch.tensor([1.0, 0.0]).double(), [0.0, 9.0], lambda t, y: y[0], **options)[0]
    tensor([1.5708, 7.8540,    nan], dtype=torch.float64)
    """
    f, args = named(f, args, kwargs, odeint_event)
    names = tuple(kwargs)
    event = with_keywords(event, names) if callable(event) else [with_keywords(one, names) for one in event]
    solver = Tsit5() if solver is None else instance("ODE solver", ODE_SOLVERS, solver)
    adjoint = Discrete() if adjoint is None else instance("adjoint", ODE_ADJOINTS, adjoint)
    check_options("odeint_event", solver, adjoint, batch_dims, compact, on_failure)
    if scan < 1 or (max_events is not None and max_events < 1):
        raise ValueError(f"scan and max_events must be at least 1, got {scan} and {max_events}")
    solve = Solve(f, y0, args, solver, adjoint, batch_dims, compact, dense=True)
    ravel = solve.field.ravel
    t, solve.field.time_dtype = as_times(t, ravel.dtype, ravel.device)
    t = t.to(ravel.device)  # what is evaluated later is a function of the ends
    if t.shape != (2,):
        raise ValueError(f"t must be the start and the latest end, shape (2,), got shape {tuple(t.shape)}")
    solve.solver = _with_step_size(solve.solver, t, scan)
    start, condition = ravel.flatten(y0), EventFunction(event, ravel, solve.each, direction)
    jumps, begin = jumps_of(solve.solver), t[0].to(solve.field.time_dtype)
    begin = begin.expand(len(start)) if solve.each else begin
    search = solve.keep = Crossings(condition, args, t, jumps, start, begin, max_events or 1, scan)
    with full_precision(ravel.device.type):
        _, *dense = solve(start, t)
        solution = solve.to_solution()
        if solve.kept is None:
            time = torch.full_like(search.theta, torch.nan, dtype=t.dtype)
            states = start.new_full((*search.theta.shape, start.shape[1]), torch.nan)
        else:
            points = torch.cat([t, t.new_tensor(jumps)]) if jumps else t
            found = _Found(search, condition, solver.tableau, t, (*dense, *solve.kept.times(points)))
            time, states = found.differentiable(args, on_failure)
            solution.residual = found.residual.reshape(solution.status.shape)
            stalled = solution.converged & ~found.vanishes.reshape(solution.status.shape)
            solution.status = torch.where(stalled, int(Status.STALLED), solution.status)
    _judge(solution, search, states, max_events)
    last = search.state.unsqueeze(0), search.time.reshape(1, -1).to(t.dtype)
    failed = ((search.which < 0) & (max_events is not None or ~search.ended)) | ~states.isfinite().all(dim=2)

    def shaped(time: Tensor, states: Tensor) -> tuple[Tensor, Any]:
        time, y = time if solve.each else time[:, 0], ravel.unflatten_many(states)
        return (time, y) if max_events is not None else (time[0], map_tensors(lambda leaf: leaf[0], y))

    solution.value = shaped(torch.where(failed, last[1], time), torch.where(failed.unsqueeze(2), last[0], states))
    solution.event = search.which if solve.each else search.which[:, 0]
    solution.event = solution.event if max_events is not None else solution.event[0]
    solution.check(on_failure, "event", advice=_ADVICE)
    solve.on_failure = on_failure
    result = shaped(torch.where(failed, torch.nan, time), torch.where(failed.unsqueeze(2), torch.nan, states))
    return (*result, solution) if return_solution else result


class _Found:
    """The events that a solve came to, as functions of its dense output.

    Attributes:
        residual: the event's absolute value, of each system; without an event, that at the end.
        vanishes: whether it is zero up to rounding, of each system.
    """

    def __init__(
        self, search: Crossings, event: EventFunction, tableau: Tableau, t: Tensor, dense: tuple[Tensor, ...]
    ) -> None:
        self._search, self._event, self._tableau, self._inputs = search, event, tableau, (*dense, t[1])
        self._index, self._fired = search.index.reshape(-1), (search.which >= 0).reshape(-1)
        begin, self._length = (x.detach()[self._index] for x in dense[2:])
        at = begin + search.theta.reshape(-1).to(t.dtype) * self._length
        self._time = torch.where(self._fired, at, t[1].detach())
        self.residual, self.vanishes = search.theta[0], search.found > 0

    def differentiable(self, args: tuple[Any, ...], on_failure: OnFailure) -> tuple[Tensor, Tensor]:
        """Times (most, systems) and states (most, systems, unknowns)."""
        grazing = self._look(args, on_failure)
        implicit = ImplicitFunction(
            lambda *_: self._time, self._condition, linear_solver=Dense(), batch_dims=1, on_failure=on_failure
        )
        time = implicit.differentiable(self._time, *self._inputs, args)
        if grazing is not None:  # its derivative is infinite, as that of a square root at 0
            distance = torch.where(grazing, time - self._time, 1.0)
            time = time + torch.where(grazing, distance.sqrt(), 0.0)
        return time.view(self._search.index.shape), self._states(time, *self._inputs[:4])

    def _condition(
        self, time: Tensor, before: Tensor, stages: Tensor, begin: Tensor, length: Tensor, end: Tensor, args: Any
    ) -> Tensor:
        """Zero at the events; where there is none, at the end of the span."""
        states = self._states(time, before, stages, begin, length)
        times = time.to(self._search.time.dtype).view(len(states), *self._search.time.shape)
        values = torch.cat([self._event(t, y, args) for t, y in zip(times, states, strict=True)])
        of_event = values.gather(1, self._search.which.clamp(min=0).reshape(-1, 1)).squeeze(1)
        return torch.where(self._fired, of_event.to(time.dtype), time - end)

    def _states(self, time: Tensor, *dense: Tensor) -> Tensor:
        values = Interpolants(self._tableau, *dense)(self._index, time)
        return values.view(*self._search.index.shape, values.shape[1])

    def _look(self, args: tuple[Any, ...], on_failure: OnFailure) -> Tensor | None:
        """Set `residual`, `vanishes`. Returns which events graze zero, if a derivative may be required and some do."""
        derivative, search = needs_derivative(), self._search

        before, stages, begin, length, end = self._inputs

        def condition(times: Tensors) -> Tensors:
            return (self._condition(times[0], before, stages, begin, length, end, args),)

        with no_derivatives():
            (value,), vjp = pullback(condition, (self._time,)) if derivative else (condition((self._time,)), None)
            values = torch.where(self._fired, value.detach().abs(), 0.0).view(search.index.shape)
            self.residual = torch.where(search.found > 0, values.amax(dim=0), search.value.abs().amin(dim=1))
            self.vanishes = (values <= search.bound).all(dim=0)
            if vjp is None:
                return None
            slope = vjp((torch.ones_like(value),))[0].abs() * self._length.abs()
            least = _GRAZING * torch.finfo(search.theta.dtype).eps ** 0.5 * search.scale.reshape(-1)
            grazing = self._fired & (slope <= least)
        if not host_flags(grazing)[0][0]:
            return None
        message = (
            "event: it grazes zero where it takes place (its derivative along the solution is zero to rounding), so "
            "that its time is no differentiable function: gradients through it are infinite"
        )
        if on_failure == "raise":
            raise NonConvergenceError(message)
        if on_failure == "warn":
            warn_once(message, NonConvergenceWarning, "event")
        return grazing


def _judge(solution: Solution, search: Crossings, states: Tensor, max_events: int | None) -> None:
    """Status of an event solve, from that of its steps: without an event it is MAX_STEPS."""
    shape = solution.status.shape
    found, finite = search.found.reshape(shape), states.isfinite().all(dim=2).all(dim=0).reshape(shape)
    if max_events is None:
        missed = (solution.status == Status.CONVERGED) & (found == 0)
        solution.status = torch.where(missed, int(Status.MAX_STEPS), solution.status)
    bad = ((found > 0) | search.ended.reshape(shape)) & ~finite
    solution.status = torch.where(bad, int(Status.DIVERGED), solution.status)
    solution.all_converged = None


def _with_step_size(solver: ODESolver, t: Tensor, scan: int) -> ODESolver:
    """A method with fixed steps, of which there are `scan` if nothing is said."""
    if not isinstance(solver, FixedStep) or solver.step_size is not None:
        return solver
    span = abs(float(unwrap((t[1] - t[0]).detach()).reshape(-1)[0]))
    return dataclasses.replace(solver, step_size=span / scan) if span else solver
