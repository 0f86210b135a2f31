"""Convex problems on a chain, where neighbours are tied: the blocks in which the solution is constant, in parallel.

    minimise  sum_i f_i(x_i) + sum_i (fall max(x_i - x_{i+1}, 0) + rise max(x_{i+1} - x_i, 0))

Total variation has fall = rise = its strength, isotonic regression rise = infinity and fall = 0 (or the reverse). The
indices with x_i > t minimise a binary problem with the slopes f_i'(t). So a block is taken at the level t that would be
its own if x were constant on it; where the binary problem has another solution it is cut, and both sides go on by
themselves. All blocks of all chains are tried at once, each binary problem by dynamic programming, whose messages are
clipped shifts and so make a parallel prefix sum: O(n log n) for each round, and in general about log n rounds.

Source: Hochbaum, "An efficient algorithm for image segmentation, Markov random fields and related problems", 2001;
Darbon, Sigelle, "Image restoration with discrete constrained total variation", 2006.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..modes import host_flags, no_derivatives

_SLACK = 4  # eps of the partial sums: a cut that gains less is round-off


def find_blocks(
    slope: Callable[[Tensor], Tensor],
    level: Callable[[Tensor, Tensor], Tensor],
    like: Tensor,
    fall: float | Tensor,
    rise: float | Tensor,
) -> tuple[Tensor, Tensor]:
    """The blocks of the solution, without derivatives; see the module.

    Args:
        slope: t -> f_i'(t), on (..., n).
        level: (labels, extra) -> the t of each index at which the slopes of its block and `extra` add up to 0.
        like: a tensor (..., n).
        fall, rise: numbers or tensors (..., 1), not negative.

    Returns:
        labels (..., n), which count the blocks from 0, and cuts (..., n - 1): 1 where x rises from a block to the next,
        -1 where it falls, 0 within a block.
    """
    with no_derivatives():
        zero = torch.zeros_like(like)
        cuts = zero[..., 1:]
        fall, rise = zero + fall, zero + rise
        while True:
            labels = pad((cuts != 0).long().cumsum(dim=-1), (1, 0))
            extra = boundary_slopes(cuts, fall, rise)
            slopes = slope(level(labels, extra)) + extra
            above = _minimise_binary(slopes, cuts, fall, rise)
            found = torch.where(cuts == 0, above[..., 1:] - above[..., :-1], 0.0)
            if not host_flags(found != 0)[0][0]:
                return labels, cuts
            cuts = cuts + found


def boundary_slopes(cuts: Tensor, fall: Tensor, rise: Tensor) -> Tensor:
    """What the penalties between blocks add to the slope of each index, (..., n)."""
    step = torch.where(cuts > 0, rise[..., 1:], 0.0) - torch.where(cuts < 0, fall[..., 1:], 0.0)
    return pad(step, (1, 0)) - pad(step, (0, 1))


def block_sums(values: Tensor, labels: Tensor) -> Tensor:
    """For each index the sum over its block, (..., n)."""
    return torch.zeros_like(values).scatter_add(-1, labels, values).gather(-1, labels)


def block_means(values: Tensor, labels: Tensor) -> Tensor:
    """For each index the mean over its block, (..., n)."""
    return block_sums(values, labels) / block_sums(torch.ones_like(values), labels)


def _minimise_binary(slopes: Tensor, cuts: Tensor, fall: Tensor, rise: Tensor) -> Tensor:
    """The b in {0, 1} of least sum_i slope_i b_i + fall [b_i > b_{i+1}] + rise [b_i < b_{i+1}], cut at the `cuts`."""
    n = slopes.shape[-1]
    slack = _SLACK * torch.finfo(slopes.dtype).eps * slopes.cumsum(dim=-1).abs().amax(dim=-1, keepdim=True)
    free = pad(cuts == 0, (0, 1))
    low, high = torch.where(free, -fall - slack, 0.0), torch.where(free, rise + slack, 0.0)
    # What an index tells the next: clip(message + slope, low, high). Such maps compose to another one of their kind.
    shift, least, most = slopes, low, high
    width = 1
    while width < n:
        earlier = [_delayed(x, width, fill) for x, fill in ((least, -torch.inf), (most, torch.inf), (shift, 0.0))]
        least, most = (torch.clamp(x + shift, least, most) for x in earlier[:2])
        shift = shift + earlier[2]
        width *= 2
    message = torch.clamp(shift, least, most)
    cost = slopes + pad(message[..., :-1], (1, 0))  # of b_i = 1 beside b_i = 0, all before it chosen best
    is_one, is_zero = cost < low, cost >= high
    # An index between follows the next one.
    place = torch.arange(n, device=slopes.device).expand_as(slopes)
    decided = torch.where(is_one | is_zero, place, n - 1)
    following = decided.flip(-1).cummin(dim=-1).values.flip(-1)
    return is_one.to(slopes.dtype).gather(-1, following)


def _delayed(x: Tensor, by: int, fill: float) -> Tensor:
    return pad(x[..., :-by], (by, 0), value=fill)
