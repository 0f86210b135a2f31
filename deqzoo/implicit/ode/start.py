"""The first step of an adaptive method: from what f is at the start, and near it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..linear_solvers.base import row_norm
from ..modes import no_derivatives, peel
from .plans import Plan
from .solvers import Adaptive
from .steps import BEGUN, Length, Stages, Stepper
from .stiff_tableaus import RosenbrockTableau
from .times import Times

_ALIKE = 4  # so many first steps, or fewer, are made equal, where a promise asks for them
_WORTH = 0.5  # promised share of the whole span with which a step of it goes on
_LEAST_SHARE = 1e-3  # that is believed


def begin(
    stepper: Stepper, times: Times, plan: Plan, y: Tensor, first: Tensor, controlled: int | None
) -> Stages | None:
    """Tell a plan how long its first step shall be, see `Adaptive`; returns the stages of it that are known then."""
    options = stepper.solver
    assert isinstance(options, Adaptive)
    whole = plan.whole()
    t, span = times.step(whole)
    if options.first_step is None:
        plan.begin(_estimated(stepper, t, torch.as_tensor(span).to(y).reshape(-1), y, first, controlled))
        return None
    lengths = times.on_host(whole)[1]
    plan.begin([abs(lengths)] * len(y) if isinstance(lengths, float) else lengths.abs().tolist())
    implicit = stepper.tableau.implicit or isinstance(stepper.tableau, RosenbrockTableau)
    if implicit or (step := plan.next()) is None:
        return None
    t, h = times.step(step)
    stages = stepper.begin(t, h, y, first, None if step.rows is None else step.rows.to(y.device))
    shares = _promised(stepper, stages, h, y, controlled)
    if all(share >= _WORTH for share in shares):
        return stages
    taken = torch.as_tensor(times.on_host(step)[1]).abs().expand(len(shares)).tolist()
    plan.begin([length * _equal_parts(share) for length, share in zip(taken, shares, strict=True)])
    return None


def _estimated(
    stepper: Stepper, t: Tensor, span: Tensor, y: Tensor, first: Tensor, controlled: int | None
) -> list[float]:
    """Lengths of first steps, of each row of y, by Hairer, Norsett, Wanner, II.4; NaN where f is not finite.

    That of an explicit Euler step with an error of .01 in units of the tolerance, by the sizes of y, of f and of the
    second derivative, which f a tiny step ahead shows.
    """
    options, order = stepper.solver, stepper.tableau.error_order + 1
    assert isinstance(options, Adaptive)
    with no_derivatives():
        scale = options.atol + options.rtol * y.abs()
        size, slope = (_norm(x / scale, controlled) for x in (y, first))
        tiny = torch.where((size < 1e-5) | (slope < 1e-5), 1e-6, 0.01 * size / slope).minimum(span.abs())
        step = (tiny * span.sign()).unsqueeze(1)
        ahead = stepper.evaluate(t + step.reshape(t.shape), y + step * first)
        change = _norm((ahead - first) / scale, controlled) / tiny
        largest = torch.maximum(slope, change)
        length = torch.where(largest <= 1e-15, (1e-3 * tiny).clamp(min=1e-6), (0.01 / largest) ** (1 / order))
        length = torch.where(change.isfinite(), torch.minimum(100 * tiny, length), tiny).minimum(span.abs())
    return _read(torch.where(slope.isfinite() & size.isfinite(), length, torch.nan), len(y))


def _promised(stepper: Stepper, stages: Stages, h: Length, y: Tensor, controlled: int | None) -> list[float]:
    """The share of a step that its first two stages promise to be within the tolerance, of each row; see `Adaptive`."""
    options, tableau = stepper.solver, stepper.tableau
    assert isinstance(options, Adaptive)
    with torch.no_grad():
        k1, k2 = (k * h for k in stages.rows(BEGUN))
        scale = torch.maximum(y.abs(), (y + tableau.c[1] * k1).abs()) * options.rtol + options.atol
        first, second, change = (_norm(k / scale, controlled) for k in (k1, k2, k2 - k1))
        largest, order = torch.maximum(first, second), tableau.error_order + 1
        rate = change / (tableau.c[1] * largest)
        share = 3 * options.safety * (largest * rate ** (order - 1)) ** (-1 / order)
        share = torch.where((first > 0.1 * largest) & ~share.isnan(), share, torch.inf)  # from rest: nothing is known
        share = torch.where(change.isfinite(), share, 0.1)
        share = torch.where(first.isfinite(), share, torch.nan)
    return _read(share, len(y))


def _norm(x: Tensor, controlled: int | None) -> Tensor:
    """Root mean square of each row, of the first `controlled` entries."""
    count = x.shape[1] if controlled is None else controlled
    return row_norm(x[:, :count]) / max(count, 1) ** 0.5


def _read(values: Tensor, rows: int) -> list[float]:
    """The values on the host; under `vmap`, the least of all for each row."""
    values = peel(values)
    if values.dim() == 1 and len(values) == rows:
        result: list[float] = values.tolist()
        return result
    return [float(values.min())] * rows if values.numel() else []


def _equal_parts(share: float) -> float:
    """The nearest share of which one, two, ... alike make up the whole, where so few do: a promise is no bound."""
    if math.isnan(share):
        return share
    share = min(max(share, _LEAST_SHARE), 1.0)
    return 1 / round(1 / share) if round(1 / share) <= _ALIKE else share
