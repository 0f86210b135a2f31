"""Products of the cones of convex programs in standard form."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..constraints.projections import semidefinite_cone
from ..operator import jacobian
from .exponential_cone import exponential_cone
from .power_cone import power_cone
from .second_order_cones import SecondOrderCones


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
        power: exponents, each between 0 and 1, of power cones, each of (x, y, z) with x^alpha y^(1 - alpha) >= |z|,
            x >= 0, y >= 0.

    >>> cones = Cones(zero=1, second_order=(2,))
    >>> cones.rows, cones.project(torch.tensor([3.0, 0.0, 2.0]))
    (3, tensor([0., 1., 1.]))
    """

    zero: int = 0
    nonnegative: int = 0
    second_order: tuple[int, ...] = ()
    semidefinite: tuple[int, ...] = ()
    exponential: int = 0
    power: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "second_order", tuple(self.second_order))
        object.__setattr__(self, "semidefinite", tuple(self.semidefinite))
        object.__setattr__(self, "power", tuple(float(alpha) for alpha in self.power))
        if min(self.zero, self.nonnegative, self.exponential, *self.second_order, *self.semidefinite, 0) < 0:
            raise ValueError(f"sizes and numbers of cones must not be negative, got {self}")
        if 0 in self.second_order:
            raise ValueError(f"second-order cones have at least one row, got sizes {self.second_order}")
        if not all(0 < alpha < 1 for alpha in self.power):
            raise ValueError(f"exponents of power cones must lie between 0 and 1, got {self.power}")

    @property
    def rows(self) -> int:
        """The number of rows of A and b."""
        return sum(self._sizes)

    @functools.cached_property
    def _sizes(self) -> list[int]:
        triangles = [n * (n + 1) // 2 for n in self.semidefinite]
        return [
            self.zero,
            self.nonnegative,
            sum(self.second_order),
            *triangles,
            3 * self.exponential,
            3 * len(self.power),
        ]

    def project(self, v: Tensor) -> Tensor:
        """The nearest point of K, along the last axis."""
        zero, nonnegative, second_order, *triangles, exponential, power = v.split(self._sizes, dim=-1)
        projected = [torch.zeros_like(zero), nonnegative.clamp(min=0)]
        if self.second_order:
            projected.append(SecondOrderCones(self.second_order).project(second_order))
        projected += [_project_triangle(part, n) for part, n in zip(triangles, self.semidefinite, strict=True)]
        if self.exponential:
            projected.append(exponential_cone(exponential.unflatten(-1, (self.exponential, 3))).flatten(-2))
        if self.power:
            triples = power.unflatten(-1, (len(self.power), 3))
            projected.append(power_cone(triples, v.new_tensor(self.power)).flatten(-2))
        return torch.cat(projected, dim=-1)

    def derivative(self, v: Tensor) -> Tensor:
        """The Jacobian of `project` at the rows of v, (programs, rows, rows); symmetric, one block per cone."""
        zero, nonnegative, second_order, *triangles, exponential, power = v.split(self._sizes, dim=-1)
        blocks = [zero.new_zeros(*zero.shape, self.zero), torch.diag_embed((nonnegative > 0).to(v))]
        if self.second_order:
            blocks.append(SecondOrderCones(self.second_order).derivative(second_order))
        for part, n in zip(triangles, self.semidefinite, strict=True):
            blocks.append(jacobian(functools.partial(_project_triangle, n=n), part).to_dense(part))
        if self.exponential:
            blocks += _of_triples(exponential_cone, exponential)
        if self.power:
            alpha = v.new_tensor(self.power).repeat(len(v))
            blocks += _of_triples(functools.partial(power_cone, alpha=alpha), power)
        whole, start = v.new_zeros(*v.shape, v.shape[-1]), 0
        for block in blocks:
            end = start + block.shape[-1]
            whole[:, start:end, start:end] = block
            start = end
        return whole

    def of_clarabel(self, clarabel: Any) -> list[Any]:
        """The same in the terms of Clarabel, whose module is handed in."""
        cones = [clarabel.ZeroConeT(self.zero)] if self.zero else []
        cones += [clarabel.NonnegativeConeT(self.nonnegative)] if self.nonnegative else []
        cones += [clarabel.SecondOrderConeT(size) for size in self.second_order]
        cones += [clarabel.PSDTriangleConeT(size) for size in self.semidefinite]
        cones += [clarabel.ExponentialConeT() for _ in range(self.exponential)]
        return cones + [clarabel.PowerConeT(alpha) for alpha in self.power]


def _of_triples(project: Callable[[Tensor], Tensor], v: Tensor) -> tuple[Tensor, ...]:
    """The Jacobians of a projection (n, 3) -> (n, 3) at all triples of (programs, rows), each (programs, 3, 3)."""
    triples = v.reshape(-1, 3)
    return jacobian(project, triples).to_dense(triples).unflatten(0, (len(v), -1)).unbind(1)


def _project_triangle(triangle: Tensor, n: int) -> Tensor:
    """As `semidefinite_cone`, of a matrix given by its upper triangle."""
    columns, rows = torch.tril_indices(n, n, device=triangle.device)  # column by column of the upper triangle
    scale = 2 ** (0.5 * (rows != columns).to(triangle.dtype))
    place = torch.empty(n, n, dtype=torch.long, device=triangle.device)
    order = torch.arange(len(rows), device=triangle.device)
    place[rows, columns] = place[columns, rows] = order
    matrix = (triangle / scale)[..., place.reshape(-1)].unflatten(-1, (n, n))
    return semidefinite_cone(matrix).flatten(-2)[..., rows * n + columns] * scale
