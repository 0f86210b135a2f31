"""Where an event changes its sign: looked for in the dense output of each step, while the solve goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..modes import host_flags, in_transform, keep_autocast, no_derivatives, unwrap
from ..operator import pullback
from ..private_api import below_all_transforms
from ..pytree import Ravel
from .controllers import Step
from .interpolants import Keep, Taken, weights
from .stage_values import coefficients

_LEAST_LOOKS = 4  # within a step
_ROUNDING = 100  # roundings, of y and t, that an event at the start may be away from 0
_AT_ONCE = 1000  # roundings of time from the start on, in which there is no event
_MOST_AT_ONCE = 1e-3  # of the span
_SMALL = 1e-3  # of the event's value at the look before it, or
_SMALL_ROUNDING = 1000  # roundings of its largest value before: above, the sign changes but the value does not vanish
_NOBODY = torch.empty(0, dtype=torch.long)


class EventFunction:
    """What a user wrote for an event, or several, on matrices: (t, y (systems, unknowns)) -> (systems, events).

    Args:
        event: `event(t, y, *args)`, or several.
        ravel: of the state.
        each: a time and an event for each system; else there is one system, with a time for all.
        direction: of each event, or of all: 1: the sign goes from - to +, -1: from + to -, 0: either.
    """

    def __init__(
        self,
        event: Callable[..., Tensor] | Sequence[Callable[..., Tensor]],
        ravel: Ravel,
        each: bool,
        direction: int | Sequence[int],
    ) -> None:
        events = list(event) if isinstance(event, Sequence) else [event]
        self._events = [keep_autocast(one, ravel.device.type) for one in events]
        self._ravel, self._each, self._direction = ravel, each, direction

    def __call__(self, t: Tensor, y: Tensor, args: tuple[Any, ...]) -> Tensor:
        """The events' values."""
        state = self._ravel.unflatten(y)
        given = [self._row(one(t, state, *args)) for one in self._events]
        if any(value.is_complex() for value in given):
            raise TypeError("event must return real numbers, as its sign counts: take .real, .imag or .abs()")
        values = [value.to(y.dtype) for value in given]
        return torch.cat(values, dim=1) if len(values) > 1 else values[0]

    def allowed(self, rising: Tensor) -> Tensor:
        """Whether the sign may change so, (systems, events)."""
        given = [self._direction] if isinstance(self._direction, int) else list(self._direction)
        if len(given) not in (1, rising.shape[1]) or not all(d in (-1, 0, 1) for d in given):
            raise ValueError(
                f"direction must be -1, 0 or 1, or one of them for each of the {rising.shape[1]} events, got {given}"
            )
        direction = torch.tensor(given, device=rising.device)
        return (direction == 0) | ((direction > 0) == rising)

    def _row(self, value: Tensor) -> Tensor:
        systems = self._ravel.systems
        if self._each:
            if value.dim() in (1, 2) and len(value) == systems:
                return value.reshape(systems, 1) if value.dim() == 1 else value
            raise ValueError(
                f"with batch_dims=1, event must return a number for each of the {systems} samples, or a row of them, "
                f"got shape {tuple(value.shape)}"
            )
        if value.numel() != 1 and value.dim() != 1:
            raise ValueError(f"event must return one number, or a vector of several, got shape {tuple(value.shape)}")
        return value.reshape(1, -1)


class Crossings(Keep):
    """Keeps the steps in which an event takes place, and those that end the span.

    An event has no side at the start; it takes one once some time has passed and its value is above rounding: so an
    event that ended the solve before does not end this one. It takes place where its sign then changes, at the first
    such place: the sign is looked at several times per step.

    Args:
        event: the event.
        args: its further arguments.
        t: (2,), the span.
        jumps: times at which f jumps.
        y: the start, (systems, unknowns).
        begin: the time there, () or (systems,), in the dtype of times that f gets.
        most: events to find, of each system.
        looks: times in the span, at least, at which the sign is looked at.

    Attributes:
        found: events of each system, (systems,).
        ended: whether a system came to the end of the span, (systems,).
        index: rows of `Kept` in which the events are, (most, systems); without an event, the last one.
        theta: where in the step, as a fraction, (most, systems).
        which: of several events, -1 for none, (most, systems).
        scale: of the event's slope there, per step, (most, systems).
        bound: of the event's value there: above, it does not vanish, (most, systems).
        time, state: those that the solve has come to.
        value: the events' values there, (systems, events).
    """

    def __init__(
        self,
        event: EventFunction,
        args: tuple[Any, ...],
        t: Tensor,
        jumps: Sequence[float],
        y: Tensor,
        begin: Tensor,
        most: int,
        looks: int,
    ) -> None:
        super().__init__()
        self._event, self._args, self._looks, self._most = event, args, looks, most
        with no_derivatives():
            t, y, systems = t.detach(), y.detach(), len(y)
            self.time, self.state = begin.detach(), y
            self.value, self._level = _rounding(lambda t, y: event(t, y, args), self.time, y)
            self._side, self._largest = torch.zeros_like(self.value), torch.zeros_like(self.value)
            event.allowed(self._side > 0)
            self.found = torch.zeros(systems, dtype=torch.long, device=y.device)
            self.ended = torch.zeros(systems, dtype=torch.bool, device=y.device)
            self.index = torch.zeros(most, systems, dtype=torch.long, device=y.device)
            self.which = torch.full_like(self.index, -1)
            self.theta, self.scale, self.bound = torch.ones(3, most, systems, dtype=y.dtype, device=y.device).unbind()
            ends = t.unbind()
        self._eps = max(torch.finfo(x.dtype).eps for x in (t, y))
        with below_all_transforms():
            first, last = (unwrap(x).reshape(-1).double().cpu() for x in ends)
            span = (last - first).abs().min().item() or 1.0  # 0 is refused by the solve
            rounding = torch.finfo(t.dtype).eps * max(first.abs().max().item(), last.abs().max().item()) / span
            points = torch.tensor([first[0].item(), last[0].item(), *jumps], dtype=torch.float64)
            self._points = (points - points[0]) / ((points[1] - points[0]) or 1.0)
        self._at_once = min(_AT_ONCE * max(rounding, torch.finfo(y.dtype).eps), _MOST_AT_ONCE)
        self._fine = max(rounding, torch.finfo(y.dtype).eps / 4)

    def see(self, taken: Taken) -> Tensor:
        """As `Keep.see`."""
        taken.complete()
        full = self.found >= self._most
        with no_derivatives():
            new, happened = self._search(_Whole(taken, self.time, self.state), taken.step)
        with below_all_transforms():
            ended = torch.as_tensor(taken.step.b == 1).reshape(-1) & torch.as_tensor(taken.step.last).reshape(-1)
            if not happened and not bool(ended.any()):
                return _NOBODY
        with no_derivatives():
            arrived = _spread(ended, taken.step.rows, self.ended)
            self.ended = self.ended | arrived
            new = new | (arrived & (self.which < 0))
            rows = None if in_transform() else _rows(new.any(dim=0), taken.step.rows)
        base = self.rows
        self.keep(taken, rows)
        with no_derivatives():
            systems = torch.arange(len(full)) if taken.step.rows is None else taken.step.rows
            systems = systems if rows is None else systems[rows]
            flat = torch.zeros(len(full), dtype=torch.long).index_copy(0, systems, base + torch.arange(len(systems)))
            self.index = torch.where(new, flat.to(self.index.device), self.index)
            done = (self.found >= self._most) & ~full
            if in_transform():  # they go on until the last is done
                return torch.arange(len(full)) if host_flags(self.found >= self._most)[0][1] else _NOBODY
            return done.nonzero().squeeze(1).cpu()

    def _search(self, whole: _Whole, step: Step) -> tuple[Tensor, bool]:
        """Note the events of a step: which slots were filled, (most, systems), and whether any was."""
        grid, values = [0.0, *self._fractions(step)], [self.value]
        for t, y in whole.at_all(grid[1:]):
            values.append(self._event(t, y, self._args))
            self.time, self.state = t, y
        self.value, new = values[-1], torch.zeros_like(self.which, dtype=torch.bool)
        looked, largest = torch.stack(values[1:]), self._largest
        self._largest = torch.maximum(largest, looked.abs().nan_to_num(0.0).amax(dim=0))
        if not host_flags(looked.sign() != self._side)[0][0]:
            return new, False
        finite = self.state.isfinite().all(dim=1)  # else the step is not to be trusted in between either
        sides, crossed = [], []
        for fraction, value in zip(grid[1:], values[1:], strict=True):
            side = self._side
            known = (self._counts(whole, step, fraction) & finite).unsqueeze(1) & ~value.isnan()
            now = torch.where((side == 0) & (value.abs() <= self._level), 0.0, value.sign())
            self._side = torch.where(known, now, side)
            crossed.append((side != 0) & (self._side != side) & self._event.allowed(side < 0))
            sides.append(side)
        flags = [some for some, _ in host_flags(*crossed)]
        for j, some in enumerate(flags):
            largest = torch.maximum(largest, values[j].abs().nan_to_num(0.0))
            if some:
                new = new | self._fill(whole, grid[j : j + 2], values[j : j + 2], sides[j], crossed[j], largest)
        return new, any(flags)

    def _fill(
        self,
        whole: _Whole,
        ends: list[float],
        values: list[Tensor],
        side: Tensor,
        crossed: Tensor,
        largest: Tensor,
    ) -> Tensor:
        """Note the events between two looks, in their order. Returns which slots were filled."""
        new = torch.zeros_like(self.which, dtype=torch.bool)
        roots = torch.stack([self._root(whole, e, ends, values, side, crossed) for e in range(side.shape[1])], dim=1)
        slope = torch.maximum(values[0].abs(), values[1].abs()) / (ends[1] - ends[0])
        bound = torch.maximum(_SMALL * values[0].abs(), _SMALL_ROUNDING * self._eps * largest)
        ordered, order = torch.where(crossed, roots, torch.inf).sort(dim=1)
        slots = torch.arange(self._most, device=side.device).unsqueeze(1)
        for k in range(side.shape[1]):
            slot = (slots == self.found) & ordered[:, k].isfinite()
            self.theta = torch.where(slot, ordered[:, k], self.theta)
            self.which = torch.where(slot, order[:, k], self.which)
            chosen = order[:, k : k + 1]
            self.scale = torch.where(slot, slope.gather(1, chosen).squeeze(1), self.scale)
            self.bound = torch.where(slot, bound.gather(1, chosen).squeeze(1), self.bound)
            self.found = self.found + slot.any(dim=0)
            new = new | slot
        return new

    def _root(
        self, whole: _Whole, e: int, ends: list[float], values: list[Tensor], side: Tensor, crossed: Tensor
    ) -> Tensor:
        """Where event e leaves its side between two looks, (systems,), by the ITP method: bisection at worst."""
        low, high = whole.full(ends[0]), whole.full(ends[1])
        f_low, f_high, side, searched = values[0][:, e], values[1][:, e], side[:, e], crossed[:, e]
        width, fine = ends[1] - ends[0], self._fine / 2
        most = max(1, math.ceil(math.log2(width / fine))) + 1
        for n in range(most):
            if not host_flags(searched & (high - low > 2 * fine))[0][0]:
                break
            middle, reach = (low + high) / 2, fine * 2.0 ** (most - n) - (high - low) / 2
            secant = (f_high * low - f_low * high) / torch.where(f_high == f_low, 1.0, f_high - f_low)
            inward, step = (middle - secant).sign(), 0.2 / width * (high - low) ** 2
            x = torch.where(step <= (middle - secant).abs(), secant + inward * step, middle)
            x = torch.where((x - middle).abs() <= reach, x, middle - inward * reach)
            value = self._event(*whole.at(x), self._args)[:, e]
            stays = value.sign() == side
            low, f_low = torch.where(stays, x, low), torch.where(stays, value, f_low)
            high, f_high = torch.where(stays, high, x), torch.where(stays, f_high, value)
        return torch.where(f_low.abs() < f_high.abs(), low, high)

    def _fractions(self, step: Step) -> list[float]:
        """Where in a step to look."""
        with below_all_transforms():
            start, size = self._of_span(step)
            first, least, largest = start.min().item(), size.min().item(), size.max().item()
        count = max(_LEAST_LOOKS, math.ceil(self._looks * largest - 1e-6))
        early = self._at_once / least if first == 0 and least else 1.0
        return [*([early] if early < 1 / count else []), *[(j + 1) / count for j in range(count)]]

    def _counts(self, whole: _Whole, step: Step, fraction: float) -> Tensor:
        """Which systems have moved, and far enough from the start, (systems,)."""
        with below_all_transforms():
            start, size = self._of_span(step)
            late = start + fraction * size >= self._at_once * (1 - 1e-6)
            if bool(late.all()):
                return whole.moved
        return _spread(late, step.rows, whole.moved)

    def _of_span(self, step: Step) -> tuple[Tensor, Tensor]:
        """Begin and size of each row, as fractions of the span."""
        a, b = (self._points[x].reshape(-1) for x in (step.a, step.b))
        return a + step.start * (b - a), step.size * (b - a)


class _Whole:
    """A step's dense output as that of all systems: those that did not take it rest, at `time` and `state`."""

    def __init__(self, taken: Taken, time: Tensor, state: Tensor) -> None:
        self._before, self._stages = (x.detach() for x in taken.dense())
        self._dense = coefficients(taken.stepper.tableau, state).dense
        chosen = slice(None) if taken.accepted is None else taken.accepted
        self._t = (taken.t if taken.accepted is None else taken.t[chosen]).detach()
        self._h = taken.h if isinstance(taken.h, float) else taken.h[chosen].detach()
        self._time, self._state = time, state
        self._rows = None if taken.step.rows is None else taken.step.rows.to(state.device)
        moved = torch.zeros(len(state), dtype=torch.bool, device=state.device)
        self.moved = ~moved if self._rows is None else moved.index_fill(0, self._rows, True)

    def full(self, fraction: float) -> Tensor:
        """A fraction for each system."""
        return torch.full((len(self._state),), fraction, dtype=self._state.dtype, device=self._state.device)

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Time and state of all systems at fractions (systems,) of the step."""
        theta = theta if self._rows is None else theta[self._rows]
        change = torch.einsum("rs,rsd->rd", weights(self._dense, theta), self._stages)
        return self._all(theta.reshape(self._t.shape), change)

    def at_all(self, fractions: Sequence[float]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same at each of some fractions, one for all systems."""
        theta = torch.tensor(fractions, dtype=self._dense.dtype, device=self._dense.device)
        for fraction, each in zip(fractions, weights(self._dense, theta), strict=True):
            yield self._all(fraction, each @ self._stages)

    def _all(self, theta: float | Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        length = self._h if isinstance(self._h, float) else self._h.reshape(self._t.shape)
        t, y = self._t + theta * length, self._before + self._h * change
        if self._rows is None:
            return t, y
        return self._time.index_copy(0, self._rows, t), self._state.index_copy(0, self._rows, y)


def _rounding(event: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The event's values, (systems, events), and how far rounding of y and t may move them."""
    (value,), vjp = pullback(lambda leaves: (event(*leaves),), (t, y))
    value, levels = value.detach(), []
    for e in range(value.shape[1]):
        of_t, of_y = vjp((torch.nn.functional.one_hot(torch.tensor(e), value.shape[1]).to(value).expand_as(value),))
        levels.append((of_y * y).abs().sum(dim=1) + (of_t * t).abs())
    return value, _ROUNDING * torch.finfo(y.dtype).eps * torch.stack(levels, dim=1).detach()


def _spread(rows_true: Tensor, rows: Tensor | None, like: Tensor) -> Tensor:
    """A mask on the host of some systems, as one of all systems on the device."""
    if rows is None:
        return rows_true.to(like.device).expand(like.shape)
    return torch.zeros(like.shape, dtype=torch.bool).index_copy(0, rows, rows_true).to(like.device)


def _rows(mask: Tensor, rows: Tensor | None) -> Tensor | None:
    """Positions of the systems of a mask among `rows`, on the host; None: all."""
    chosen = mask.cpu() if rows is None else mask.cpu()[rows]
    return None if bool(chosen.all()) else chosen.nonzero().squeeze(1)
