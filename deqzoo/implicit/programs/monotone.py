"""Roots of increasing functions of one unknown each, many at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..modes import host_flags

_MOST = 120  # evaluations: every second one halves the bracket


def increasing_root(equation: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """Between low and high, by Newton's method where it stays between, and by bisection in turn.

    Newton's method is that for asinh(value), whose slope is nearly even where value grows as an exponential does. To
    three quarters of the digits: a Newton step more, which callers take on the tape, gives the others.

    Args:
        equation: x -> (value, slope), both of the shape of x.

    >>> increasing_root(lambda x: (x**3 - 8, 3 * x**2), torch.zeros(1), torch.full((1,), 100.0)).round(decimals=3)
    tensor([2.])
    """
    x = (low + high) / 2
    close = torch.finfo(x.dtype).eps ** 0.75
    for step in range(_MOST):
        value, slope = equation(x)
        below = value < 0
        low, high = torch.where(below, x, low), torch.where(below, high, x)
        newton = x - torch.asinh(value) * (1 + value * value).sqrt() / slope
        within = (newton > low) & (newton < high)
        middle = (low + high) / 2
        nearer = torch.where(within, newton, middle)
        change = torch.minimum((nearer - x).abs(), high - low)
        if host_flags(~(change > close * x.abs().clamp(min=1)))[0][1]:
            return nearer
        x = middle if step % 2 else nearer
    return x
