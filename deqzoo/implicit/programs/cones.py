"""Products of the cones of convex programs in standard form."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from ..constraints.projections import second_order_cone, semidefinite_cone
from ..operator import jacobian
from .exponential_cone import exponential_cone


@dataclasses.dataclass(frozen=True)
class Cones:
    """The cone K of s, as a product of cones: rows of A and b come in the order of the fields.

    Args:
        zero: rows of equalities, s = 0.
        nonnegative: rows with s >= 0.
        second_order: sizes of second-order cones, each of vectors (t, x) with ||x|| <= t.
        semidefinite: sizes n of cones of semidefinite (n, n) matrices, each as the n (n + 1) / 2 rows of its upper
            triangle, column by column, the entries off the diagonal times sqrt(2).
        exponential: number of exponential cones, each of the closure of (x, y, z) with y e^(x/y) <= z, y > 0.

    >>> cones = Cones(zero=1, second_order=(2,))
    >>> cones.rows, cones.project(torch.tensor([3.0, 0.0, 2.0]))
    (3, tensor([0., 1., 1.]))
    """

    zero: int = 0
    nonnegative: int = 0
    second_order: tuple[int, ...] = ()
    semidefinite: tuple[int, ...] = ()
    exponential: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "second_order", tuple(self.second_order))
        object.__setattr__(self, "semidefinite", tuple(self.semidefinite))
        if min(self.zero, self.nonnegative, self.exponential, *self.second_order, *self.semidefinite, 0) < 0:
            raise ValueError(f"sizes and numbers of cones must not be negative, got {self}")

    @property
    def rows(self) -> int:
        """The number of rows of A and b."""
        return sum(self._sizes())

    def _sizes(self) -> list[int]:
        triangles = [n * (n + 1) // 2 for n in self.semidefinite]
        return [self.zero, self.nonnegative, *self.second_order, *triangles, 3 * self.exponential]

    def project(self, v: Tensor) -> Tensor:
        """The nearest point of K, along the last axis."""
        parts = v.split(self._sizes(), dim=-1)
        projected = [torch.zeros_like(parts[0]), parts[1].clamp(min=0)]
        first_triangle = 2 + len(self.second_order)
        projected += [second_order_cone(part) for part in parts[2:first_triangle]]
        projected += [
            _project_triangle(part, n) for part, n in zip(parts[first_triangle:-1], self.semidefinite, strict=True)
        ]
        last = parts[-1]
        if self.exponential:
            last = exponential_cone(last.unflatten(-1, (self.exponential, 3))).flatten(-2)
        return torch.cat([*projected, last], dim=-1)

    def derivative(self, v: Tensor) -> Tensor:
        """The Jacobian of `project` at the rows of v, (programs, rows, rows); symmetric, one block per cone."""
        parts = v.split(self._sizes(), dim=-1)
        blocks = [(v.new_zeros(()), self.zero), (torch.diag_embed((parts[1] > 0).to(v)), self.nonnegative)]
        first_triangle = 2 + len(self.second_order)
        blocks += [(_of_second_order(part), part.shape[-1]) for part in parts[2:first_triangle]]
        for part, n in zip(parts[first_triangle:-1], self.semidefinite, strict=True):
            project = functools.partial(_project_triangle, n=n)
            blocks.append((jacobian(project, part).to_dense(part), part.shape[-1]))
        for part in parts[-1].split(3, dim=-1) if self.exponential else ():
            blocks.append((jacobian(exponential_cone, part).to_dense(part), 3))
        whole, start = v.new_zeros(*v.shape, v.shape[-1]), 0
        for block, size in blocks:
            whole[:, start : start + size, start : start + size] = block
            start += size
        return whole

    def of_clarabel(self, clarabel: Any) -> list[Any]:
        """The same in the terms of Clarabel, whose module is handed in."""
        cones = [clarabel.ZeroConeT(self.zero)] if self.zero else []
        cones += [clarabel.NonnegativeConeT(self.nonnegative)] if self.nonnegative else []
        cones += [clarabel.SecondOrderConeT(size) for size in self.second_order]
        cones += [clarabel.PSDTriangleConeT(size) for size in self.semidefinite]
        return cones + [clarabel.ExponentialConeT() for _ in range(self.exponential)]


def _of_second_order(v: Tensor) -> Tensor:
    """The Jacobian of `second_order_cone` at vectors (t, x), (programs, k, k).

    With u = x / ||x||, r = (1, u) and I the identity for x it is (rr' + (1 + t / ||x||) (I - uu')) / 2 where neither v
    nor -v lies in the cone.
    """
    t, x = v[..., :1], v[..., 1:]
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    between, inside = norm > t.abs(), t > 0
    norm = norm.clamp(min=torch.finfo(v.dtype).tiny)
    u = torch.cat([torch.zeros_like(t), x / norm], dim=-1)
    of_x = torch.cat([torch.zeros_like(t), torch.ones_like(x)], dim=-1)
    r = u + 1 - of_x
    share = (1 + t / norm).unsqueeze(-1)
    oblique = (_outer(r) + share * (torch.diag_embed(of_x) - _outer(u))) / 2
    whole = torch.diag_embed(inside.to(v).expand_as(v))
    return torch.where(between.unsqueeze(-1), oblique, whole)


def _outer(v: Tensor) -> Tensor:
    return v.unsqueeze(-1) * v.unsqueeze(-2)


def _project_triangle(triangle: Tensor, n: int) -> Tensor:
    """As `semidefinite_cone`, of a matrix given by its upper triangle."""
    columns, rows = torch.tril_indices(n, n, device=triangle.device)  # column by column of the upper triangle
    scale = 2 ** (0.5 * (rows != columns).to(triangle.dtype))
    place = torch.empty(n, n, dtype=torch.long, device=triangle.device)
    order = torch.arange(len(rows), device=triangle.device)
    place[rows, columns] = place[columns, rows] = order
    matrix = (triangle / scale)[..., place.reshape(-1)].unflatten(-1, (n, n))
    return semidefinite_cone(matrix).flatten(-2)[..., rows * n + columns] * scale
