"""Roots of increasing functions of one unknown each, many at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..modes import host_flags

_MOST = 120  # evaluations: each halves the last move, or the bracket


def increasing_root(equation: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """Between low and high, by Newton's method where it stays between and halves its last move, else by bisection.

    Newton's method is that for asinh(value), whose slope is nearly even where value grows as an exponential does. To
    three quarters of the digits: a Newton step more, which callers take on the tape, gives the others.

    Args:
        equation: x -> (value, slope), both of the shape of x; values are told apart from 0 down to the dtype's eps.

    >>> increasing_root(lambda x: (x**3 - 8, 3 * x**2), torch.zeros(1), torch.full((1,), 100.0)).round(decimals=3)
    tensor([2.])
    """
    x = (low + high) / 2
    eps = torch.finfo(x.dtype).eps
    move = high - low
    settled = torch.zeros_like(x, dtype=torch.bool)
    for _ in range(_MOST):
        value, slope = equation(x)
        # Where rounding hides the sign the root is taken to lie nearer to 0, where the slope tells something.
        below = torch.where(value.abs() <= eps, x < 0, value < 0)
        low, high = torch.where(below, x, low), torch.where(below, high, x)
        newton = x - torch.asinh(value) * (1 + value * value).sqrt() / slope
        between = ((newton > low) & (newton < high)) | (newton == x)
        taken = between & ((newton - x).abs() <= move / 2)
        nearer = torch.where(taken, newton, (low + high) / 2)
        move = (nearer - x).abs()
        x = torch.where(settled, x, nearer)
        settled = settled | ~(torch.minimum(move, high - low) > eps**0.75 * x.abs().clamp(min=1))
        if host_flags(settled)[0][1]:
            break
    return x
