"""Proximal operators prox(y) = argmin ||x - y||^2 / 2 + h(x) of penalties h, in closed form or by a finite method.

Vectors lie along the last axis, matrices along the last two; all axes before them are a batch. A strength is a number
or a tensor that broadcasts against y, so that one number per vector has the shape (..., 1), and gets gradients too. As
for projections, derivatives are those of a piece on which the operator is smooth. A NaN in y makes its result NaN.

Source: Parikh, Boyd, "Proximal Algorithms", 2014.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .parameters import Parameter, ordered, parameter
from .projections import semidefinite_cone
from .total_variation import total_variation

__all__ = ["elastic_net", "group_lasso", "l1", "l2", "nuclear_norm", "total_variation"]

_NEGATIVE = "the strength of a penalty must not be negative"


def l1(y: Tensor, strength: Parameter = 1.0) -> Tensor:
    """Of strength sum |x_i|, the soft threshold.

    >>> l1(torch.tensor([3.0, -0.5]))
    tensor([2., 0.])
    """
    ordered(0.0, strength, _NEGATIVE)
    strength = parameter(strength, y)
    return y - torch.clamp(y, -strength, strength)


def elastic_net(y: Tensor, strength: Parameter = 1.0, ridge: Parameter = 1.0) -> Tensor:
    """Of strength sum |x_i| + ridge ||x||^2 / 2.

    >>> elastic_net(torch.tensor([3.0, -0.5]))
    tensor([1., 0.])
    """
    ordered(0.0, ridge, _NEGATIVE)
    return l1(y, strength) / (1 + parameter(ridge, y))


def l2(y: Tensor, strength: Parameter = 1.0) -> Tensor:
    """Of strength ||x||: the whole vector is shortened by the strength, to 0 where it is no longer than that.

    >>> l2(torch.tensor([3.0, 4.0]))
    tensor([2.4000, 3.2000])
    """
    ordered(0.0, strength, _NEGATIVE)
    strength = parameter(strength, y)
    longer = ~(torch.linalg.vector_norm(y.detach(), dim=-1, keepdim=True) <= strength)  # true for NaN
    norm = torch.linalg.vector_norm(torch.where(longer, y, 1.0), dim=-1, keepdim=True)
    return torch.where(longer, y * (1 - strength / norm), 0.0)


def group_lasso(y: Tensor, groups: Tensor, strength: Parameter = 1.0) -> Tensor:
    """Of sum_g strength_g ||x_g||, where `groups` (n,) has the number g = 0, 1, ... of each entry's group.

    The strength is a number or a tensor (..., n), one number for each entry, equal within a group.

    >>> group_lasso(torch.tensor([3.0, 4.0, 0.5]), torch.tensor([0, 0, 1]))
    tensor([2.4000, 3.2000, 0.0000])
    """
    ordered(0.0, strength, _NEGATIVE)
    strength = parameter(strength, y)
    squares = group_sums(y.square(), groups)
    longer = ~(squares.detach().sqrt() <= strength)  # true for NaN
    norm = torch.where(longer, squares, 1.0).sqrt()
    return torch.where(longer, y * (1 - strength / norm), 0.0)


def group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """For each entry the sum over its group, (..., n)."""
    groups = groups.expand_as(values)
    return torch.zeros_like(values).scatter_add(-1, groups, values).gather(-1, groups)


def nuclear_norm(y: Tensor, strength: Parameter = 1.0) -> Tensor:
    """Of strength times the sum of the singular values of a matrix (..., m, n): a soft threshold on each of them.

    Half of it is a block of the semidefinite projection of [[0, y], [y^T, 0]] - strength I, whose derivatives do not
    mind equal singular values.

    >>> nuclear_norm(torch.tensor([[0.0, 3.0], [0.5, 0.0]])).round(decimals=5)
    tensor([[0., 2.],
            [0., 0.]])
    """
    ordered(0.0, strength, _NEGATIVE)
    m, n = y.shape[-2:]
    zeros = [y.new_zeros(*y.shape[:-2], k, k) for k in (m, n)]
    both = torch.cat([torch.cat([zeros[0], y], dim=-1), torch.cat([y.mT, zeros[1]], dim=-1)], dim=-2)
    identity = torch.eye(m + n, dtype=y.dtype, device=y.device)
    return 2 * semidefinite_cone(both - parameter(strength, y) * identity)[..., :m, m:]
