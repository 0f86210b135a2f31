"""Euclidean projections P(y) = argmin ||x - y|| over x in a convex set, in closed form or by a finite method.

Vectors lie along the last axis, matrices along the last two; all axes before them are a batch. Parameters of a set are
numbers or tensors that broadcast against y, so that one number per vector has the shape (..., 1), and they get
gradients too. Where a projection is smooth it has derivatives of any order; on the boundary between two of its pieces
it has those of one of them. A NaN in y makes its projection NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .matrix_abs import matrix_abs
from .parameters import ordered, parameter
from .transport_polytope import transport_polytope

__all__ = [
    "affine_set",
    "box",
    "half_space",
    "hyperplane",
    "l1_ball",
    "l2_ball",
    "linf_ball",
    "non_negative",
    "second_order_cone",
    "semidefinite_cone",
    "simplex",
    "transport_polytope",
]


def box(y: Tensor, lower: float | Tensor | None = None, upper: float | Tensor | None = None) -> Tensor:
    """Onto lower <= x <= upper, of which either may be missing: x = min(max(y, lower), upper).

    >>> box(torch.tensor([-1.0, 0.5, 3.0]), 0.0, 2.0)
    tensor([0.0000, 0.5000, 2.0000])
    """
    ordered(lower, upper, "the lower bounds of a box must not lie above the upper ones")
    least = -torch.inf if lower is None else lower
    most = torch.inf if upper is None else upper
    return torch.clamp(y, parameter(least, y), parameter(most, y))


def non_negative(y: Tensor) -> Tensor:
    """Onto the orthant x >= 0.

    >>> non_negative(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return torch.clamp(y, min=0)


def simplex(y: Tensor, total: float | Tensor = 1.0) -> Tensor:
    """Onto the simplex x >= 0, sum x = total, by sorting: x = max(y - tau, 0).

    Source: Held, Wolfe, Crowder, "Validation of subgradient optimization", 1974; Duchi et al., "Efficient projections
    onto the l1-ball for learning in high dimensions", 2008.

    >>> simplex(torch.tensor([1.5, 1.0, 0.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """
    ordered(0.0, total, "the sum of a simplex must not be negative")
    total = parameter(total, y)
    frozen = y.detach()
    top = frozen.amax(dim=-1, keepdim=True)  # the projection does not see it, and round-off is that of differences
    falling = (frozen - top).sort(dim=-1, descending=True).values
    sizes = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype, device=y.device)
    excess = (falling.cumsum(dim=-1) - total.detach()) / sizes
    size = (falling > excess).sum(dim=-1, keepdim=True).clamp(min=1)
    support = ~(frozen - top <= excess.gather(-1, size - 1))  # true for NaN, which goes on to x
    shifted = y - top
    tau = (torch.where(support, shifted, 0.0).sum(dim=-1, keepdim=True) - total) / support.sum(
        dim=-1, keepdim=True
    ).clamp(min=1)
    return torch.where(support, shifted - tau, 0.0).clamp(min=0)


def l1_ball(y: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """Onto sum |x_i| <= radius: outside of it the simplex's projection of |y|, with the signs of y.

    Source: Duchi et al., "Efficient projections onto the l1-ball for learning in high dimensions", 2008.

    >>> l1_ball(torch.tensor([2.0, -1.5, 0.1]))
    tensor([ 0.7500, -0.2500,  0.0000])
    """
    ordered(0.0, radius, "the radius of a ball must not be negative")
    outside = y.detach().abs().sum(dim=-1, keepdim=True) > parameter(radius, y)
    return torch.where(outside, y.sign() * simplex(y.abs(), radius), y)


def l2_ball(y: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """Onto ||x|| <= radius: x = y min(1, radius / ||y||).

    >>> l2_ball(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    ordered(0.0, radius, "the radius of a ball must not be negative")
    radius = parameter(radius, y)
    outside = torch.linalg.vector_norm(y.detach(), dim=-1, keepdim=True) > radius
    norm = torch.linalg.vector_norm(torch.where(outside, y, 1.0), dim=-1, keepdim=True)  # inside it may be 0
    return torch.where(outside, y * (radius / norm), y)


def linf_ball(y: Tensor, radius: float | Tensor = 1.0) -> Tensor:
    """Onto max |x_i| <= radius.

    >>> linf_ball(torch.tensor([3.0, -0.5]), 2.0)
    tensor([ 2.0000, -0.5000])
    """
    ordered(0.0, radius, "the radius of a ball must not be negative")
    radius = parameter(radius, y)
    return torch.clamp(y, -radius, radius)


def hyperplane(y: Tensor, normal: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """Onto normal . x = offset, for a normal (..., n) that is not zero.

    >>> hyperplane(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]), 2.0)
    tensor([0., 2.])
    """
    excess = (normal * y).sum(dim=-1, keepdim=True) - parameter(offset, y)
    return y - normal * (excess / normal.square().sum(dim=-1, keepdim=True))


def half_space(y: Tensor, normal: Tensor, offset: float | Tensor = 0.0) -> Tensor:
    """Onto normal . x <= offset, for a normal (..., n) that is not zero.

    >>> half_space(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]), 2.0)
    tensor([0., 2.])
    """
    excess = ((normal * y).sum(dim=-1, keepdim=True) - parameter(offset, y)).clamp(min=0)
    return y - normal * (excess / normal.square().sum(dim=-1, keepdim=True))


def affine_set(y: Tensor, A: Tensor, b: Tensor) -> Tensor:
    """Onto A x = b, A (..., m, n) and b (..., m): x = y - A^+ (A y - b).

    Equations may depend on each other. Where they contradict each other, the set is that of least ||A x - b||.

    >>> affine_set(torch.tensor([1.0, 3.0]), torch.tensor([[1.0, 1.0]]), torch.tensor([2.0]))
    tensor([0., 2.])
    """
    residual = (A @ y.unsqueeze(-1)).squeeze(-1) - b
    return y - (torch.linalg.pinv(A) @ residual.unsqueeze(-1)).squeeze(-1)


def second_order_cone(y: Tensor) -> Tensor:
    """Onto the cone ||x|| <= t of vectors (t, x), whose first entry is t.

    Source: Parikh, Boyd, "Proximal Algorithms", 2014, section 6.3.2.

    >>> second_order_cone(torch.tensor([1.0, 3.0, 0.0]))
    tensor([2., 2., 0.])
    """
    t, x = y[..., :1], y[..., 1:]
    between = ~(torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True) <= t.detach().abs())  # true for NaN
    norm = torch.linalg.vector_norm(torch.where(between, x, 1.0), dim=-1, keepdim=True)
    height = (t + norm) / 2
    oblique = torch.cat([height, height / norm.clamp(min=torch.finfo(y.dtype).tiny) * x], dim=-1)
    return torch.where(between, oblique, torch.where(t > 0, y, 0.0))


def semidefinite_cone(y: Tensor) -> Tensor:
    """Onto the symmetric positive semidefinite matrices: the symmetric part of y, its negative eigenvalues made 0.

        P(Y) = (Y + |Y|) / 2,    |Y|^2 = Y^2

    Eigenvalues may be equal; the derivative is unique where none is 0.

    >>> semidefinite_cone(torch.diag(torch.tensor([2.0, -1.0])))
    tensor([[2., 0.],
            [0., 0.]])
    """
    symmetric = (y + y.mT) / 2
    return (symmetric + matrix_abs(symmetric)) / 2
