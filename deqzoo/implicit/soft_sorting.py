"""Differentiable sorting and ranking: exact projections onto the permutahedron, by a sort and isotonic regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from .constraints.blocks import block_means, block_sums
from .constraints.parameters import Parameter, parameter
from .modes import host_flags, no_derivatives

Regularization = Literal["quadratic", "entropic"]
_REGULARIZATIONS = ("quadratic", "entropic")


def soft_sort(
    values: Tensor,
    strength: Parameter = 1.0,
    *,
    regularization: Regularization = "quadratic",
    descending: bool = False,
    dim: int = -1,
) -> Tensor:
    """The sorted values, as a continuous function with derivatives that are not zero beside the sorted place.

        P(rho / strength, values),    P(z, w) = argmin ||x - z||^2 over the convex hull of all orders of w

    with rho = (n, ..., 1), for the descending order. It is exact where neighbours in order differ by at most
    1 / strength; the larger the strength, the nearer all entries come to the mean.

    Args:
        values: a tensor; each vector along `dim` is sorted by itself.
        strength: above 0, a number or a tensor that broadcasts against `values`, one number for each vector.
        regularization: "quadratic", piecewise linear in the values; or "entropic", P(z, w) being the logarithm of the
            projection of e^z by relative entropy onto the hull of the orders of e^w: smoother within a piece.
        descending: the largest value first.
        dim: the axis along which to sort.

    Derivatives are those of the piece on which the values lie, by the blocks of the isotonic regression behind it: to
    any order, in forward mode, and under `torch.func`.

    Source: Blondel, Teboul, Berthet, Djolonga, "Fast Differentiable Sorting and Ranking", 2020.

    >>> soft_sort(torch.tensor([3.0, 1.0, 2.0]), 0.1)
    tensor([1., 2., 3.])
    >>> soft_sort(torch.tensor([3.0, 1.0, 2.0]), 10.0)
    tensor([1.9000, 2.0000, 2.1000])
    """
    values, strength = _prepared(values, strength, regularization, dim)
    weights = (values if descending else -values).sort(dim=-1, descending=True).values
    places = _places(values) / strength
    found = _project_sorted(places.expand_as(weights), weights, regularization)
    return (found if descending else -found).movedim(-1, dim)


def soft_rank(
    values: Tensor,
    strength: Parameter = 1.0,
    *,
    regularization: Regularization = "quadratic",
    descending: bool = False,
    dim: int = -1,
) -> Tensor:
    """The ranks of the values, from 1 (the smallest; with `descending` the largest), as a continuous function of them.

        P(values / strength, (1, ..., n)),    P as for `soft_sort`

    Exact where neighbours in order differ by at least the strength; values that are equal share the mean of their
    ranks. Where one value of a row is not finite, none of its ranks is a number. Arguments and derivatives are those of
    `soft_sort`.

    Source: Blondel, Teboul, Berthet, Djolonga, "Fast Differentiable Sorting and Ranking", 2020.

    >>> soft_rank(torch.tensor([3.0, 1.0, 2.0]), 0.1)
    tensor([3., 1., 2.])
    >>> soft_rank(torch.tensor([3.0, 1.0, 1.0]), 0.1)
    tensor([3.0000, 1.5000, 1.5000])
    """
    values, strength = _prepared(values, strength, regularization, dim)
    scores = (-values if descending else values) / strength
    ordered, order = scores.sort(dim=-1, descending=True)
    found = _project_sorted(ordered, _places(values).expand_as(ordered), regularization)
    return found.gather(-1, order.argsort(dim=-1)).movedim(-1, dim)


def _project_sorted(z: Tensor, w: Tensor, regularization: str) -> Tensor:
    """P(z, w) of vectors that fall, (..., n): on each block of the isotonic regression, z with the level of w."""
    level = block_means if regularization == "quadratic" else _log_sums
    labels = _pool(z.detach(), w.detach(), level)
    return z - level(z, labels) + level(w, labels)


def _pool(z: Tensor, w: Tensor, level: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The blocks of the falling isotonic regression, (..., n): neighbours are pooled as long as their levels rise."""
    with no_derivatives():
        labels = torch.arange(z.shape[-1], device=z.device).expand_as(z)
        while True:
            levels = level(z, labels) - level(w, labels)
            bounds = labels[..., 1:] != labels[..., :-1]
            rises = bounds & (levels[..., 1:] > levels[..., :-1])
            if not host_flags(rises)[0][0]:
                return labels
            labels = pad((bounds & ~rises).long().cumsum(dim=-1), (1, 0))


def _log_sums(values: Tensor, labels: Tensor) -> Tensor:
    """For each index the log of the sum of exp over its block, (..., n), of values that fall."""
    place = torch.arange(values.shape[-1], device=values.device)
    begins = pad(labels[..., 1:] != labels[..., :-1], (1, 0))
    first = torch.where(begins, place, 0).cummax(dim=-1).values
    largest = values.detach().gather(-1, first)
    return block_sums((values - largest).exp(), labels).log() + largest


def _places(values: Tensor) -> Tensor:
    """(n, ..., 1)."""
    return torch.arange(values.shape[-1], 0, -1, dtype=values.dtype, device=values.device)


def _prepared(values: Tensor, strength: Parameter, regularization: str, dim: int) -> tuple[Tensor, Tensor]:
    """Values and strength with the axis to be sorted as the last one."""
    if regularization not in _REGULARIZATIONS:
        raise ValueError(f"regularization must be one of {', '.join(_REGULARIZATIONS)}, got {regularization!r}")
    if isinstance(strength, int | float) and not strength > 0:
        raise ValueError(f"strength must be above 0, got {strength}")
    if not values.is_floating_point() or values.dim() == 0:
        raise ValueError(
            f"values must be a floating-point tensor of one axis or more, got {values.dtype}, {values.dim()}"
        )
    given, values = parameter(strength, values), values.movedim(dim, -1)
    values = torch.where(values.isfinite().all(dim=-1, keepdim=True), values, torch.nan)
    return values, given.movedim(dim, -1) if given.dim() == values.dim() else given
