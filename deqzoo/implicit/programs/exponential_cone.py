"""The projection onto the exponential cone."""

from __future__ import annotations

import torch
from torch import Tensor

from .monotone import increasing_root

_REACH = 50.0  # of the root: e^50 is beyond what two terms of one sum can tell apart


def exponential_cone(v: Tensor) -> Tensor:
    """Onto the closure of {(x, y, z): y > 0, y e^(x/y) <= z}, along the last axis of length 3; twice differentiable.

    The projection p and v - p lie on rays that one number rho tells, the root of a monotone function, found
    numerically. Two Newton steps from there on the tape give it derivatives, exactly up to third order.

    Source: Friberg, "Projection onto the exponential cone: a univariate root-finding problem", 2023.

    >>> exponential_cone(torch.tensor([0.0, 1.0, 3.0]))  # inside
    tensor([0., 1., 3.])
    >>> exponential_cone(torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64))
    tensor([0.4263, 0.7517, 1.3254], dtype=torch.float64)
    """
    x, y, z = v.detach().unbind(-1)
    tiny = torch.finfo(v.dtype).tiny
    positive = y.clamp(min=tiny)
    inside = (y > 0) & (z > 0) & (x <= positive * (z.clamp(min=tiny) / positive).log())
    inside = inside | ((x <= 0) & (y == 0) & (z >= 0))
    steep = x.clamp(min=tiny)
    polar = (x > 0) & (z < 0) & (steep.log() + y / steep <= 1 + (-z).clamp(min=tiny).log())
    polar = polar | ((x == 0) & (y <= 0) & (z <= 0))
    low, high = _bounds(v.detach())
    face = ((x <= 0) & (y <= 0) & ~polar) | (low >= _REACH) | (high <= -_REACH)
    face = face | ((high > _REACH) & (_equation(torch.full_like(x, _REACH), v.detach())[0] < 0))
    between = ~(inside | polar | face)  # true for NaN
    safe = torch.where(between.unsqueeze(-1), v, torch.tensor([1.0, 0.0, 0.0], dtype=v.dtype, device=v.device))
    rho = _root(safe.detach())
    for _ in range(2):
        value, slope = _equation(rho, safe)
        rho = rho - value / slope
    r, s, t = safe.unbind(-1)
    scale = rho * rho - rho + 1
    length = ((rho - 1) * r + s) / scale
    # Both are the height of the root's ray: for large rho the length is what cancellation has left.
    height = torch.where(rho > 0, t + (r - rho * s) * (-rho).exp() / scale, length * rho.clamp(max=0).exp())
    ray = torch.stack([length * rho, length, height], dim=-1)
    of_face = torch.stack([v[..., 0].clamp(max=0), v[..., 1].clamp(min=0), v[..., 2].clamp(min=0)], dim=-1)
    rest = torch.where(face.unsqueeze(-1), of_face, torch.zeros_like(v))
    return torch.where(between.unsqueeze(-1), ray, torch.where(inside.unsqueeze(-1), v, rest))


def _equation(rho: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The function whose root is rho, and its derivative."""
    r, s, t = v.unbind(-1)
    primal, dual, scale = ((rho - 1) * r + s) * rho.exp(), (r - rho * s) * (-rho).exp(), rho * rho - rho + 1
    change = (primal + r * rho.exp()) + (dual + s * (-rho).exp())
    return (primal - dual) / scale - t, change / scale - (2 * rho - 1) * (primal - dual) / scale**2


def _bounds(v: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers rho for which both rays have positive length are those between."""
    r, s, _ = v.unbind(-1)
    low, high = torch.full_like(r, -torch.inf), torch.full_like(r, torch.inf)
    end = 1 - s / torch.where(r == 0, torch.ones_like(r), r)
    low, high = torch.where(r > 0, torch.maximum(low, end), low), torch.where(r < 0, torch.minimum(high, end), high)
    end = r / torch.where(s == 0, torch.ones_like(s), s)
    return torch.where(s < 0, torch.maximum(low, end), low), torch.where(s > 0, torch.minimum(high, end), high)


def _root(v: Tensor) -> Tensor:
    low, high = (bound.clamp(-_REACH, _REACH) for bound in _bounds(v))
    size = v.abs().amax(dim=-1).clamp(min=torch.finfo(v.dtype).tiny)
    unit = v / size.unsqueeze(-1)
    return increasing_root(lambda rho: _equation(rho, unit), low, high)
