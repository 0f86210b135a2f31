"""Initial step selection of the adaptive methods: from what f is at the start, and near it; see `Adaptive`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..modes import no_derivatives
from ..sending import send
from .controllers import StepController
from .norms import Norm, on_host
from .solvers import Adaptive, is_explicit
from .stage_values import Length, Stages
from .steps import FIRST_STAGES, Stepper
from .times import Times
from .tolerances import scale

_EQUAL = 4  # first steps, or fewer, that are made of one length
_WORTH_TRYING = 0.5  # expected share of the whole span from which on a step of it is tried
_LEAST_SHARE = 1e-3  # that is believed


def select_initial_step(
    stepper: Stepper, times: Times, controller: StepController, y: Tensor, first: Tensor | None, norm: Norm
) -> tuple[Tensor, Stages | None]:
    """Tell a controller the length of its first step; returns f, and stages of that step if they are known."""
    options, whole = stepper.solver, controller.whole_span()
    assert isinstance(options, Adaptive)
    stepper.limits = times.limits(whole)
    t, span = times.step(whole)
    if first is None or times.from_jump(whole):
        first = stepper.evaluate(t, y)
    if options.first_step is None:
        span = torch.as_tensor(span).to(y).reshape(-1)
        controller.set_first_step(_estimated_lengths(stepper, t, span, y, first, norm))
        return first, None
    length = times.on_host(whole)[1]
    controller.set_first_step([abs(length)] if isinstance(length, float) else length.abs().tolist())
    return first, _try_whole_span(stepper, times, controller, y, first, norm)


def _estimated_lengths(stepper: Stepper, t: Tensor, span: Tensor, y: Tensor, first: Tensor, norm: Norm) -> list[float]:
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


def _try_whole_span(
    stepper: Stepper, times: Times, controller: StepController, y: Tensor, first: Tensor, norm: Norm
) -> Stages | None:
    """The first stages of a step of the whole span, if its expected error allows for enough of it.

    Else the controller is told to begin with less.
    """
    if not is_explicit(stepper.solver) or (step := controller.next_step()) is None:
        return None
    t, h = times.step(step)
    rows, systems = None if step.rows is None else send(step.rows, y.device), len(y)
    y, first = (y, first) if rows is None else (y[rows], first[rows])
    stages = stepper.begin(t, h, y, first, rows)
    shares = expected_shares(stepper, stages, h, y, rows, norm)
    if all(share >= _WORTH_TRYING for share in shares):
        return stages
    tried = torch.as_tensor(times.on_host(step)[1]).abs().expand(len(shares)).tolist()
    lengths = [length * _equal_parts(share) for length, share in zip(tried, shares, strict=True)]
    if step.rows is not None:  # the other systems have failed already
        by_system = dict(zip(step.rows.tolist(), lengths, strict=True))
        lengths = [by_system.get(system, 1.0) for system in range(systems)]
    controller.set_first_step(lengths)
    return None


def expected_shares(
    stepper: Stepper, stages: Stages, h: Length, y: Tensor, rows: Tensor | None, norm: Norm
) -> list[float]:
    """The share of a step of which the error is expected to be within the tolerance, of each row, from two stages.

    The formula is that of `Adaptive`. Infinite at rest, where the stages tell nothing, NaN where f is not finite.
    """
    options, tableau = stepper.solver, stepper.tableau
    assert isinstance(options, Adaptive)
    c, order = tableau.c[1], tableau.error_order + 1
    with torch.no_grad():
        k1, k2 = (k * h for k in stages.rows(FIRST_STAGES))
        unit = scale(options, torch.maximum(y.abs(), (y + c * k1).abs()), rows)
        first, second, change = (norm(norm.cut(k / unit)) for k in (k1, k2, k2 - k1))
        largest = torch.maximum(first, second)
        rate = change / (c * largest)
        share = 3 * options.safety * (largest * rate ** (order - 1)) ** (-1 / order)
        at_rest = ~(first > 0.1 * largest)
        share = torch.where(at_rest | share.isnan(), torch.inf, share)
        share = torch.where(change.isfinite(), share, 0.1)
        share = torch.where(first.isfinite(), share, torch.nan)
    return on_host(share, len(y), largest=False)


def _equal_parts(share: float) -> float:
    """The nearest of 1, 1/2, 1/3 and 1/4 for a share near them: expected errors are no bounds."""
    if math.isnan(share):
        return share
    share = min(max(share, _LEAST_SHARE), 1.0)
    parts = round(1 / share)
    return 1 / parts if parts <= _EQUAL else share
