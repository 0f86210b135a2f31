"""The proximal operator of total variation in one dimension, exact and in parallel.

    minimise  sum_i (x_i - y_i)^2 / 2 + strength sum_i |x_{i+1} - x_i|

The indices with x_i > t minimise a binary problem with the slopes t - y_i. So a block is taken at the level t that
would be its own if x were constant on it; where the binary problem has another solution it is cut, and both sides go on
by themselves. All blocks of all rows are tried at once, each binary problem by dynamic programming, whose messages are
clipped shifts and so make a parallel prefix sum: O(n log n) for each round, and in general about log n rounds.

Source: Hochbaum, "An efficient algorithm for image segmentation, Markov random fields and related problems", 2001;
Darbon, Sigelle, "Image restoration with discrete constrained total variation", 2006.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..modes import host_flags, no_derivatives
from .blocks import block_means
from .parameters import Parameter, ordered, parameter

_SLACK = 4  # eps of the partial sums: a cut that gains less is round-off


def total_variation(y: Tensor, strength: Parameter = 1.0) -> Tensor:
    """Of strength sum |x_{i+1} - x_i|, along the last axis. Its derivatives are those with the blocks as they are.

    >>> total_variation(torch.tensor([0.0, 0.5, 4.0, 4.0]), 0.5)
    tensor([0.5000, 0.5000, 3.7500, 3.7500])
    """
    ordered(0.0, strength, "the strength of a penalty must not be negative")
    strength = parameter(strength, y) + torch.zeros_like(y)
    labels, cuts = _find_blocks(y.detach(), strength.detach())
    return block_means(y - _boundary_slopes(cuts, strength), labels)


def _find_blocks(y: Tensor, strength: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks on which x is constant, without derivatives.

    Returns:
        labels (..., n), which count the blocks from 0, and cuts (..., n - 1): 1 where x rises from a block to the next,
        -1 where it falls, 0 within a block.
    """
    with no_derivatives():
        cuts = torch.zeros_like(y[..., 1:])
        while True:
            labels = pad((cuts != 0).long().cumsum(dim=-1), (1, 0))[..., : y.shape[-1]]
            if y.numel() == 0:
                return labels, cuts
            target = y - _boundary_slopes(cuts, strength)
            above = _minimise_binary(block_means(target, labels) - target, cuts, strength)
            found = torch.where(cuts == 0, above[..., 1:] - above[..., :-1], 0.0)
            if not host_flags(found != 0)[0][0]:
                return labels, cuts
            cuts = cuts + found


def _boundary_slopes(cuts: Tensor, strength: Tensor) -> Tensor:
    """What the penalties between blocks add to the slope of each index, (..., n)."""
    step = cuts * strength[..., 1:]
    return (pad(step, (1, 0)) - pad(step, (0, 1)))[..., : strength.shape[-1]]


def _minimise_binary(slopes: Tensor, cuts: Tensor, strength: Tensor) -> Tensor:
    """The b in {0, 1} of least sum_i slope_i b_i + strength |b_{i+1} - b_i|, without a penalty at the `cuts`."""
    n = slopes.shape[-1]
    slack = _SLACK * torch.finfo(slopes.dtype).eps * slopes.cumsum(dim=-1).abs().amax(dim=-1, keepdim=True)
    high = torch.where(pad(cuts == 0, (0, 1)), strength + slack, 0.0)
    # What an index tells the next: clip(message + slope, -high, high). Such maps compose to another one of their kind.
    shift, least, most = slopes, -high, high
    width = 1
    while width < n:
        earlier = [_delayed(x, width, fill) for x, fill in ((least, -torch.inf), (most, torch.inf), (shift, 0.0))]
        least, most = (torch.clamp(x + shift, least, most) for x in earlier[:2])
        shift = shift + earlier[2]
        width *= 2
    message = torch.clamp(shift, least, most)
    cost = slopes + _delayed(message, 1, 0.0)  # of b_i = 1 beside b_i = 0, all before it chosen best
    is_one, is_zero = cost < -high, cost >= high
    # An index between follows the next one.
    place = torch.arange(n, device=slopes.device).expand_as(slopes)
    decided = torch.where(is_one | is_zero, place, n - 1)
    following = decided.flip(-1).cummin(dim=-1).values.flip(-1)
    return is_one.to(slopes.dtype).gather(-1, following)


def _delayed(x: Tensor, by: int, fill: float) -> Tensor:
    return pad(x[..., :-by], (by, 0), value=fill)
