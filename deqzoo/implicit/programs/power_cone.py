"""The projection onto the power cone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .monotone import increasing_root


def power_cone(v: Tensor, alpha: Tensor) -> Tensor:
    """Onto {(x, y, z): x^alpha y^(1 - alpha) >= |z|, x, y >= 0}, along the last axis of length 3; twice differentiable.

    Where v lies neither in the cone nor in its polar, the projection is (g_1, g_2, +-r) with

        g_i = (v_i + (v_i^2 + 4 alpha_i r (|z| - r))^(1/2)) / 2,    alpha = (alpha, 1 - alpha)

    and 0 < r < |z| the root of g_1^alpha g_2^(1 - alpha) = r, found in log(r / (|z| - r)). Two Newton
    steps from there on the tape give it derivatives, exactly up to third order.

    Args:
        v: (..., 3).
        alpha: between 0 and 1, of a shape that broadcasts with (...).

    Source: Hien, "Differential properties of Euclidean projection onto power cone", 2015.

    >>> power_cone(torch.tensor([4.0, 1.0, -2.0]), torch.tensor(0.5))  # inside
    tensor([ 4.,  1., -2.])
    >>> power_cone(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64)
    """
    alpha = alpha.to(v).expand(v.shape[:-1])
    exponents = torch.stack([alpha, 1 - alpha], dim=-1)
    held = v.detach()
    inside = _contains(held, exponents, 1.0)
    polar = _contains(-held, exponents, exponents)
    flat, full = _beyond(held, exponents)
    between = ~(inside | polar | flat | full) & (held[..., 2] != 0)  # true for NaN
    ordinary = torch.tensor([0.0, 0.0, 1.0], dtype=v.dtype, device=v.device)
    safe = torch.where(between.unsqueeze(-1), v, ordinary)
    sign = safe[..., 2].detach().sign()
    safe = torch.cat([safe[..., :2], (sign * safe[..., 2]).unsqueeze(-1)], dim=-1)
    u = _root(safe.detach(), exponents)
    for _ in range(2):
        value, slope = _equation(u, safe, exponents)
        u = u - value / slope
    r, ratios, _ = _ratios(u, safe, exponents)
    curved = torch.cat([r.unsqueeze(-1) * ratios, (sign * r).unsqueeze(-1)], dim=-1)
    third = torch.where(full.unsqueeze(-1), v[..., 2:], torch.zeros_like(v[..., 2:]))
    face = torch.cat([v[..., :2].clamp(min=0), third], dim=-1)
    rest = torch.where(polar.unsqueeze(-1), torch.zeros_like(v), face)
    return torch.where(between.unsqueeze(-1), curved, torch.where(inside.unsqueeze(-1), v, rest))


def _contains(v: Tensor, exponents: Tensor, scale: Tensor | float) -> Tensor:
    """Whether prod_i (v_i / scale_i)^exponent_i >= |z|, v_i >= 0; with the exponents as scale that is the dual cone."""
    legs, height = v[..., :2], v[..., 2].abs()
    logs = (exponents * (legs / scale).clamp(min=torch.finfo(v.dtype).tiny).log()).sum(dim=-1)
    return (legs >= 0).all(dim=-1) & ((height == 0) | ((legs > 0).all(dim=-1) & (height.log() <= logs)))


def _ratios(u: Tensor, v: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """r = |z| / (1 + e^-u), g_i / r, and the slope of log g_i in u."""
    legs, height = v[..., :2], v[..., 2]
    r, rest = height * u.sigmoid(), height * (-u).sigmoid()
    roots = (legs.square() + 4 * exponents * (r * rest).unsqueeze(-1)).sqrt()
    positive = legs > 0
    # Of a negative leg the sum would be what cancellation leaves.
    of_negative = 2 * exponents * rest.unsqueeze(-1) / torch.where(positive, torch.ones_like(roots), roots - legs)
    ratios = torch.where(positive, (legs + roots) / (2 * r).unsqueeze(-1), of_negative)
    share = (r / height).unsqueeze(-1)
    return r, ratios, exponents * rest.unsqueeze(-1) * (1 - 2 * share) / (roots * ratios)


def _equation(u: Tensor, v: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """log of g_1^alpha g_2^(1 - alpha) / r, which falls through 0 at the root, and its derivative in u."""
    _, ratios, slopes = _ratios(u, v, exponents)
    return (exponents * ratios.log()).sum(dim=-1), (exponents * slopes).sum(dim=-1) - (-u).sigmoid()


def _root(v: Tensor, exponents: Tensor) -> Tensor:
    high = _reach(v)

    def rising(u: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = _equation(u, v, exponents)
        return -value, -slope

    return increasing_root(rising, -high, high)


def _reach(v: Tensor) -> Tensor:
    """The largest |u| of a root: beyond it, r or |z| - r is less than the round-off of |z|."""
    return torch.full_like(v[..., 2], -1.4 * math.log(torch.finfo(v.dtype).eps))


def _beyond(v: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Where r is 0, and where it is |z|, to working precision: as with exponents near 0."""
    legs_and_height = torch.cat([v[..., :2], v[..., 2:].abs()], dim=-1)
    ordinary = torch.where(v[..., 2:] == 0, torch.ones_like(v), legs_and_height)
    high = _reach(v)
    return _equation(-high, ordinary, exponents)[0] < 0, _equation(high, ordinary, exponents)[0] > 0
