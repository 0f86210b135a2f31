"""The one rule by which steps grow and shrink with their errors; see `Adaptive`.

Of numbers, where all systems share their steps, or of tensors with an entry for each system: the helpers at the end
take either.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .solvers import Adaptive, is_explicit

LEAST_ERROR = 1e-4  # below this the error says nothing of the next step
_SHRINK_FIRST, _SHRINK, _GROW = 0.1, 0.2, 10.0  # bounds of the change from step to step
_GROW_BLIND = 2.0  # of implicit methods, where the error says nothing: lest a bump after a rest be jumped over
_LEAST_ORDER = 0.5  # that two attempts may show
_DOUBTFUL = 0.1  # largest error that is accepted from an estimate that does not fall as its order says


class StepSizeRule:
    """A PI controller for explicit methods, Gustafsson's predictive one for implicit methods.

    Lengths and errors (over the tolerance) are numbers or tensors; NaN where there are none yet.
    """

    def __init__(self, solver: Adaptive) -> None:
        self.order = solver.tableau.error_order + 1
        self._safety, self._max_step, self._explicit = solver.safety, solver.max_step, is_explicit(solver)
        self._grow_blind = _GROW if self._explicit else _GROW_BLIND

    def shown_order(self, length: Any, error: Any, rejected_length: Any, rejected_error: Any) -> Any:
        """The order that the errors of this attempt and of a rejected one before it show, at most the method's."""
        known = _isfinite(rejected_error) & _isfinite(error) & (error > 0)
        if known is False:  # numbers, that have no logarithm
            return float(self.order)
        order = _log(rejected_error / error) / _log(rejected_length / length)
        return _where(known, _minimum(_maximum(order, _LEAST_ORDER), float(self.order)), float(self.order))

    def largest_error(self, order: Any) -> Any:
        """The error up to which an attempt is accepted that shows this order."""
        return _where(order > 1, 1.0, _DOUBTFUL)

    def after_accepted(
        self, length: Any, error: Any, last_length: Any, last_error: Any, rejected_length: Any, planned: Any
    ) -> Any:
        """The next length after a step with an error of at least `LEAST_ERROR`.

        Args:
            length, error: of the step.
            last_length, last_error: of the accepted one before it.
            rejected_length: of the attempt just before it, if that was rejected: then the step does not grow.
            planned: what the length would have been, but for the end of a segment.
        """
        most = _where(error > LEAST_ERROR, _GROW, self._grow_blind)
        most = _where(_isnan(rejected_length), most, 1.0)
        factor = self._safety * self._factor(length, error, last_length, last_error)
        following = length * _minimum(_maximum(factor, _SHRINK), most)
        # The end of a segment may have cut the step, to one whose error says nothing.
        return self.capped(_where(error == LEAST_ERROR, _maximum(following, planned), following))

    def after_rejected(self, length: Any, error: Any, order: Any, any_accepted: Any) -> Any:
        """The next length after a rejected attempt, whose error fell with `order`."""
        factor = self._safety * (self.largest_error(order) / error) ** (1 / order)
        return length * _maximum(factor, _where(any_accepted, _SHRINK, _SHRINK_FIRST))

    def _factor(self, length: Any, error: Any, last_length: Any, last_error: Any) -> Any:
        """By which the step may change after one that was accepted; `safety` is left out."""
        if self._explicit:
            return error ** (-0.85 / self.order) * last_error ** (0.2 / self.order)
        trend = length / last_length * (last_error / error) ** (1 / self.order)
        return error ** (-1 / self.order) * _where(trend < 1, trend, 1.0)

    def capped(self, length: Any) -> Any:
        """A length, at most the solver's largest."""
        return length if self._max_step is None else _minimum(length, self._max_step)


def _where(condition: Any, a: Any, b: Any) -> Any:
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    return a if condition else b


def _minimum(x: Any, bound: Any) -> Any:
    if isinstance(x, Tensor):
        return torch.minimum(x, bound) if isinstance(bound, Tensor) else x.clamp(max=bound)
    return min(x, bound)


def _maximum(x: Any, bound: Any) -> Any:
    if isinstance(x, Tensor):
        return torch.maximum(x, bound) if isinstance(bound, Tensor) else x.clamp(min=bound)
    return max(x, bound)


def _isfinite(x: Any) -> Any:
    return x.isfinite() if isinstance(x, Tensor) else math.isfinite(x)


def _isnan(x: Any) -> Any:
    return x.isnan() if isinstance(x, Tensor) else math.isnan(x)


def _log(x: Any) -> Any:
    return x.log() if isinstance(x, Tensor) else math.log(x)
