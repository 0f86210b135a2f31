"""A quadratic program with the rows of its constraints scaled to norm 1, and the sizes of what is in it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..modes import host_flags
from .program import PrimalDual, QuadraticProgram


@dataclasses.dataclass(frozen=True, eq=False)
class ScaledProgram:
    """The program in which row i of Cx + s = d is divided by its norm. Vectors are rows, (programs, 1, n).

    Attributes:
        P, C: with the axis of the programs; a view of one matrix where all share it.
        q, minus_d: rows.
        equalities: number of equalities, which are the first rows of C.
        norms: of the rows of C, (programs, 1, k) or (1, 1, k).
        finite: which programs hold neither NaN nor Inf; the others are replaced by zeros. (programs,)
        shared: whether all programs have one factorisation.
        curvature: the size of P, or of q over that of x where that is larger; so it is of a multiplier over a slack,
            (programs, 1, 1), or (1, 1, 1) if shared.
        least_primal, least_dual: sizes of x and of q below which a residual counts as zero, (programs, 1, 1).
    """

    P: Tensor
    q: Tensor
    C: Tensor
    minus_d: Tensor
    equalities: int
    norms: Tensor
    finite: Tensor
    shared: bool
    curvature: Tensor
    least_primal: Tensor
    least_dual: Tensor

    @classmethod
    def of(cls, program: QuadraticProgram) -> ScaledProgram:
        """Scale a program.

        Raises:
            ValueError: where P is not symmetric or not positive semidefinite, to round-off.
        """
        P, C = (t if t.dim() == 3 else t.unsqueeze(0) for t in (program.P, program.C))
        q, d = program.q.unsqueeze(1), program.d.unsqueeze(1)
        norms = torch.linalg.vector_norm(C, dim=-1).unsqueeze(1)
        of_P, of_q = largest(P), largest(q)
        finite = torch.isfinite(of_P + of_q + largest(d) + norms.sum(dim=2, keepdim=True)).reshape(-1)
        if not _check(P, of_P, finite):
            P, q, C, d, norms, of_P, of_q = _without(~finite, P, q, C, d, norms, of_P, of_q)
        norms = _or_one(norms)
        C, d = C / norms.mT, d / norms
        of_d = largest(d)
        of_x = torch.where(of_d > 0, of_d, _or_one(of_q / _or_one(of_P)))
        curvature = _or_one(torch.maximum(of_P, of_q / of_x))
        shared = P.shape[0] == C.shape[0] == 1 and program.equalities == C.shape[1]
        if shared:
            curvature = curvature.amax(dim=0, keepdim=True)
        least = torch.finfo(q.dtype).eps ** 0.25
        least_dual = torch.where(of_q > 0, of_q, least * _or_one(of_x * of_P))
        P, C = (t.expand(q.shape[0], -1, -1) for t in (P, C))
        return cls(P, q, C, -d, program.equalities, norms, finite, shared, curvature, least * of_x, least_dual)

    @property
    def ratios(self) -> Tensor:
        """Of each inequality, a slack over a multiplier in the units of the user, (programs, m)."""
        ratios = self.norms[..., self.equalities :] ** 2 / self.curvature
        return ratios.expand(self.q.shape[0], -1, -1).squeeze(1)

    def part(self, rows: Tensor) -> ScaledProgram:
        """The same of some programs, which do not share one factorisation."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                fields[field.name] = value.expand(self.q.shape[0], *value.shape[1:])[rows]
        return dataclasses.replace(self, **fields)

    def restore(self, x: Tensor, y: Tensor, s: Tensor) -> PrimalDual:
        """A point of the scaled program as one of the user's."""
        y, s, p = y / self.norms, s * self.norms[..., self.equalities :], self.equalities
        return PrimalDual(*(t.squeeze(1) for t in (x, y[..., :p], y[..., p:], s)))

    def take(self, point: PrimalDual) -> tuple[Tensor, Tensor]:
        """The unknowns and multipliers of a point of the user's."""
        y = torch.cat([point.equality_duals, point.inequality_duals], dim=1)
        return point.x.unsqueeze(1), y.unsqueeze(1) * self.norms


def largest(rows: Tensor) -> Tensor:
    """The largest absolute value of each program, (programs, 1, 1); 0 of none."""
    if rows.shape[2]:
        return rows.abs().amax(dim=(1, 2), keepdim=True)  # a sixth of the time of a vector norm
    return rows.sum(dim=2, keepdim=True)


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, 1.0)


def _check(P: Tensor, size: Tensor, finite: Tensor) -> bool:
    """Whether all programs are finite; an error where one that is has a P that is not convex."""
    n, eps = P.shape[-1], torch.finfo(P.dtype).eps
    asymmetric = largest(P - P.mT) > eps**0.5 * size
    shift = (n * eps**0.75) * _or_one(size)
    indefinite = torch.linalg.cholesky_ex(P + shift * torch.eye(n, dtype=P.dtype, device=P.device))[1] > 0
    asymmetric, indefinite = asymmetric.reshape(-1) & finite, indefinite & finite
    (is_asymmetric, _), (is_indefinite, _), (_, all_finite) = host_flags(asymmetric, indefinite, finite)
    if is_asymmetric:
        raise ValueError("P must be symmetric; pass (P + P.mT) / 2, which has the same objective")
    if is_indefinite:
        raise ValueError("P must be positive semidefinite: with a negative eigenvalue the program is not convex")
    return all_finite


def _without(bad: Tensor, *tensors: Tensor) -> list[Tensor]:
    """The tensors with zeros for the bad programs; in what all share, for what is not finite."""
    mask = bad.reshape(-1, 1, 1)
    return [
        t.nan_to_num(0.0, 0.0, 0.0) if t.shape[0] < mask.shape[0] else torch.where(mask, torch.zeros_like(t), t)
        for t in tensors
    ]
