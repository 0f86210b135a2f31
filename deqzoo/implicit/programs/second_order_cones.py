"""The projection onto a product of second-order cones, in as many operations as one cone takes."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class SecondOrderCones:
    """The cones ||x|| <= t of vectors (t, x), one after the other along the last axis.

    Args:
        sizes: of each cone, t included, at least 1.

    >>> cones = SecondOrderCones((3, 2))
    >>> cones.project(torch.tensor([1.0, 3.0, 0.0, -1.0, 0.5]))
    tensor([2., 2., 0., 0., 0.])
    """

    sizes: tuple[int, ...]

    def project(self, v: Tensor) -> Tensor:
        """As `projections.second_order_cone`, of each part of (..., rows)."""
        heads, owner, is_tail = self._layout(v.device)
        t, x = v[..., heads], v * is_tail.to(v.dtype)
        squared = self._sums(x * x, owner)
        between = ~(squared.detach().sqrt() <= t.detach().abs())  # true for NaN
        norm = torch.where(between, squared, 1.0).sqrt()
        height, whole = (t + norm) / 2, (t > 0).to(v.dtype)
        tails = torch.where(between, height / norm, whole)[..., owner] * x
        return tails.index_add(-1, heads, torch.where(between, height, t.clamp(min=0)))

    def derivative(self, v: Tensor) -> Tensor:
        """The Jacobian of `project`, (..., rows, rows).

        With u = x / ||x||, r = (1, u) and I the identity for x it is (rr' + (1 + t / ||x||) (I - uu')) / 2 where
        neither v nor -v lies in the cone.
        """
        heads, owner, is_tail = self._layout(v.device)
        t, tail = v[..., heads], is_tail.to(v.dtype)
        x = v * tail
        norm = self._sums(x * x, owner).sqrt()
        between, whole = norm > t.abs(), (t > 0).to(v.dtype)
        norm = norm.clamp(min=torch.finfo(v.dtype).tiny)
        u = x / norm[..., owner]
        r = u + (1 - tail)
        share = torch.where(between, 1 + t / norm, 2 * whole)[..., owner]
        beside = between[..., owner].to(v.dtype)  # the outer products count there alone
        inner = (beside * r).unsqueeze(-1) * r.unsqueeze(-2) - (beside * share * u).unsqueeze(-1) * u.unsqueeze(-2)
        own = torch.where(is_tail | ~between[..., owner], share, 0.0)
        return (inner * (owner.unsqueeze(-1) == owner) + torch.diag_embed(own)) / 2

    def _sums(self, rows: Tensor, owner: Tensor) -> Tensor:
        return rows.new_zeros(*rows.shape[:-1], len(self.sizes)).index_add(-1, owner, rows)

    def _layout(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of the t, the cone of each row, and which rows are of an x."""
        return _layout(self.sizes, device)


@functools.lru_cache(maxsize=64)
def _layout(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    counts = torch.tensor(sizes, dtype=torch.long)
    heads = counts.cumsum(0) - counts
    owner = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    is_tail = torch.ones(len(owner), dtype=torch.bool).index_fill(0, heads, False)
    return heads.to(device), owner.to(device), is_tail.to(device)
