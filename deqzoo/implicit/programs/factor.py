"""The factorisation of a step of the interior-point method, which the derivatives of the solution use again."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .scaling import ScaledProgram


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """H = P + rho I + C' W C by Cholesky: the regularised optimality system, reduced to x.

    Attributes:
        scaled: the program.
        lower: the factor, (programs, n, n), or (1, n, n) where all programs share it.
        weights: W, (programs, 1, k) or (1, 1, k).
        failed: where H was not positive definite in floating point, (programs,) or (1,).
    """

    scaled: ScaledProgram
    lower: Tensor
    weights: Tensor
    failed: Tensor

    @classmethod
    def of(cls, scaled: ScaledProgram, regularised: Tensor, weights: Tensor) -> Factor:
        """Factorise; `regularised` is P + rho I."""
        C = scaled.C[:1] if scaled.shared else scaled.C
        H = torch.baddbmm(regularised, C.mT * weights, C)
        lower, info = torch.linalg.cholesky_ex(H)
        return cls(scaled, lower, weights, info > 0)

    def solve(self, right: Tensor) -> Tensor:
        """H^-1 of each row, (programs, 1, n)."""
        if self.scaled.shared:
            return torch.cholesky_solve(right.permute(1, 2, 0), self.lower).permute(2, 0, 1)
        return torch.cholesky_solve(right.mT, self.lower).mT


@dataclasses.dataclass(frozen=True, eq=False)
class ActiveSet:
    """The Jacobian of `kkt.stationarity` at a solution, t_i being `ratios`:

        M = [P + sum_a G_i'G_i / t_i   A'   G_a']
            [A                         0    0   ]    a: the active inequalities
            [G_a                       0   -t   ]    -t_i on the diagonal for those that are not active

    Attributes:
        factor: that of the last step, by which systems with M are nearly solved.
        active: of the inequalities, (programs, 1, m), 1 or 0.
    """

    factor: Factor
    active: Tensor

    @property
    def ratios(self) -> Tensor:
        """The t_i, (programs, m)."""
        return self.factor.scaled.ratios

    def solve(self, right: Tensor) -> Tensor:
        """Nearly M^-1 of each row, (programs, n + k).

        It differs from the exact inverse by the regularisation, by the penalty W in place of infinity on the active
        rows, and by round-off.
        """
        scaled, p = self.factor.scaled, self.factor.scaled.equalities
        n = scaled.q.shape[2]
        right = right.unsqueeze(1)
        r, c = right[..., :n], right[..., n:] / scaled.norms
        if not self.active.shape[2]:
            x, y = self._penalised(r, c, self.factor.weights)
            return torch.cat([x, y / scaled.norms], dim=2).squeeze(1)
        weights = self.factor.weights
        weights = torch.cat([weights[..., :p].expand(r.shape[0], -1, -1), weights[..., p:] * self.active], dim=2)
        x, y = self._penalised(r, c, weights)
        y = torch.cat([y[..., :p], y[..., p:] - scaled.curvature * c[..., p:]], dim=2)
        return torch.cat([x, y / scaled.norms], dim=2).squeeze(1)

    def _penalised(self, r: Tensor, c: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """x, y with P x + C'y = r and C x = c in the rows that have weight, y = 0 in the others; nearly."""
        C = self.factor.scaled.C
        x = self.factor.solve(torch.baddbmm(r, weights * c, C))
        return x, weights * torch.baddbmm(c, x, C.mT, beta=-1)

    def times(self, v: Tensor) -> Tensor:
        """M of each row, (programs, n + k)."""
        scaled, p = self.factor.scaled, self.factor.scaled.equalities
        x, y = v.unsqueeze(1).split((scaled.q.shape[2], scaled.C.shape[1]), dim=2)
        image = torch.bmm(x, scaled.C.mT)  # in rows of norm 1
        y = y * scaled.norms
        if self.active.shape[2]:
            active, ratio = self.active, 1 / scaled.curvature
            z, own = y[..., p:], image[..., p:]
            y = torch.cat([y[..., :p], active * (z + scaled.curvature * own)], dim=2)
            image = torch.cat([image[..., :p], active * own + (active - 1) * ratio * z], dim=2)
        top = torch.baddbmm(torch.bmm(x, scaled.P), y, scaled.C)
        return torch.cat([top, image * scaled.norms], dim=2).squeeze(1)

    def matrix(self, rows: Tensor) -> Tensor:
        """M of some programs, (rows, n + k, n + k), in the units of the user."""
        scaled, p = self.factor.scaled, self.factor.scaled.equalities
        C = (scaled.C * scaled.norms.mT)[rows]
        ratios, active = self.ratios[rows], self.active[rows].squeeze(1)
        held = torch.cat([torch.ones_like(C[:, :p, 0]), active], dim=1).unsqueeze(-1) * C
        corner = scaled.P[rows] + held[:, p:].mT @ (C[:, p:] / ratios.unsqueeze(-1))
        own = torch.diag_embed(torch.cat([torch.zeros_like(C[:, :p, 0]), (active - 1) * ratios], dim=1))
        return torch.cat([torch.cat([corner, held.mT], dim=2), torch.cat([held, own], dim=2)], dim=1)
