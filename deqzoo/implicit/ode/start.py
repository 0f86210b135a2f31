"""The first step of an adaptive method: from what f is at the start, and near it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..modes import no_derivatives
from .norms import Norm, on_host
from .plans import Plan
from .solvers import Adaptive, is_explicit
from .steps import BEGUN, Length, Stages, Stepper
from .times import Times
from .tolerances import scale

_ALIKE = 4  # so many first steps, or fewer, are made equal, where a promise asks for them
_WORTH = 0.5  # promised share of the whole span with which a step of it goes on
_LEAST_SHARE = 1e-3  # that is believed


def begin(
    stepper: Stepper, times: Times, plan: Plan, y: Tensor, first: Tensor | None, norm: Norm
) -> tuple[Tensor, Stages | None]:
    """Tell a plan how long its first step shall be, see `Adaptive`; returns f, and stages of that step if known."""
    options, whole = stepper.solver, plan.whole()
    assert isinstance(options, Adaptive)
    stepper.limits = times.limits(whole)
    t, span = times.step(whole)
    if first is None or times.from_jump(whole):
        first = stepper.evaluate(t, y)
    if options.first_step is None:
        plan.begin(_estimated(stepper, t, torch.as_tensor(span).to(y).reshape(-1), y, first, norm))
        return first, None
    length = times.on_host(whole)[1]
    plan.begin([abs(length)] if isinstance(length, float) else length.abs().tolist())
    return first, _looked(stepper, times, plan, y, first, norm)


def _looked(stepper: Stepper, times: Times, plan: Plan, y: Tensor, first: Tensor, norm: Norm) -> Stages | None:
    """The first stages of the first step, where they promise enough of it; else the plan is told to begin with less."""
    if not is_explicit(stepper.solver) or (step := plan.next()) is None:
        return None
    t, h = times.step(step)
    rows, systems = None if step.rows is None else step.rows.to(y.device), len(y)
    y, first = (y, first) if rows is None else (y[rows], first[rows])
    stages = stepper.begin(t, h, y, first, rows)
    shares = _promised(stepper, stages, h, y, rows, norm)
    if all(share >= _WORTH for share in shares):
        return stages
    taken = torch.as_tensor(times.on_host(step)[1]).abs().expand(len(shares)).tolist()
    found = [length * _equal_parts(share) for length, share in zip(taken, shares, strict=True)]
    if step.rows is not None:  # the others have failed already
        of = dict(zip(step.rows.tolist(), found, strict=True))
        found = [of.get(system, 1.0) for system in range(systems)]
    plan.begin(found)
    return None


def _estimated(stepper: Stepper, t: Tensor, span: Tensor, y: Tensor, first: Tensor, norm: Norm) -> list[float]:
    """Lengths of first steps, of each row of y, by Hairer, Norsett, Wanner, II.4; NaN where f is not finite.

    That of an explicit Euler step with an error of .01 in units of the tolerance, by the sizes of y, of f and of the
    second derivative, which f a tiny step ahead shows.
    """
    options, order = stepper.solver, stepper.tableau.error_order + 1
    assert isinstance(options, Adaptive)
    with no_derivatives():
        unit = scale(options, y.abs())
        size, slope = (norm(norm.cut(x / unit)) for x in (y, first))
        tiny = torch.where((size < 1e-5) | (slope < 1e-5), 1e-6, 0.01 * size / slope).minimum(span.abs())
        step = (tiny * span.sign()).unsqueeze(1)
        ahead = stepper.evaluate(t + step.reshape(t.shape), y + step * first)
        change = norm(norm.cut((ahead - first) / unit)) / tiny
        largest = torch.maximum(slope, change)
        length = torch.where(largest <= 1e-15, (1e-3 * tiny).clamp(min=1e-6), (0.01 / largest) ** (1 / order))
        length = torch.where(change.isfinite(), torch.minimum(100 * tiny, length), tiny).minimum(span.abs())
    return on_host(torch.where(slope.isfinite() & size.isfinite(), length, torch.nan), len(y), largest=False)


def _promised(stepper: Stepper, stages: Stages, h: Length, y: Tensor, rows: Tensor | None, norm: Norm) -> list[float]:
    """The share of a step that its first two stages promise to be within the tolerance, of each row; see `Adaptive`."""
    options, tableau = stepper.solver, stepper.tableau
    assert isinstance(options, Adaptive)
    with torch.no_grad():
        k1, k2 = (k * h for k in stages.rows(BEGUN))
        unit = scale(options, torch.maximum(y.abs(), (y + tableau.c[1] * k1).abs()), rows)
        first, second, change = (norm(norm.cut(k / unit)) for k in (k1, k2, k2 - k1))
        largest, order = torch.maximum(first, second), tableau.error_order + 1
        rate = change / (tableau.c[1] * largest)
        share = 3 * options.safety * (largest * rate ** (order - 1)) ** (-1 / order)
        share = torch.where((first > 0.1 * largest) & ~share.isnan(), share, torch.inf)  # from rest: nothing is known
        share = torch.where(change.isfinite(), share, 0.1)
        share = torch.where(first.isfinite(), share, torch.nan)
    return on_host(share, len(y), largest=False)


def _equal_parts(share: float) -> float:
    """The nearest share of which one, two, ... alike make up the whole, where so few do: a promise is no bound."""
    if math.isnan(share):
        return share
    share = min(max(share, _LEAST_SHARE), 1.0)
    return 1 / round(1 / share) if round(1 / share) <= _ALIKE else share
