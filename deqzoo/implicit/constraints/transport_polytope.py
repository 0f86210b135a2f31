"""The Euclidean projection onto the transport plans between two marginals."""

from __future__ import annotations

import torch
from torch import Tensor

from ..modes import host_flags, no_derivatives
from .parameters import Parameter, parameter

_MAX_STEPS = 200
_ROUND_OFF = 64  # eps of the largest entry: what sums of a row may be off by
_DAMPING = 1e-3  # of Newton's matrix, whose entries are counts, at most
_ARMIJO = 1e-4


def transport_polytope(y: Tensor, rows: Parameter, columns: Parameter) -> Tensor:
    """Onto the matrices x >= 0 of row sums `rows` (..., m) and column sums `columns` (..., n), y of shape (..., m, n).

        x = max(y + u + v^T, 0)

    with the potentials u and v by a semismooth Newton method, which ends at the exact support; given the support they
    solve a linear system. A set that is empty, where sums differ or are negative, has projections NaN.

    Source: Blondel, Seguy, Rolet, "Smooth and Sparse Optimal Transport", 2018.

    >>> half = torch.tensor([0.5, 0.5])
    >>> transport_polytope(torch.tensor([[2.0, 0.2], [0.0, 0.0]]), half, half)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    m, n = y.shape[-2:]
    rows, columns = parameter(rows, y), parameter(columns, y)
    sums = torch.cat([rows.expand(*y.shape[:-2], m), columns.expand(*y.shape[:-2], n)], dim=-1)
    with no_derivatives():
        potentials, found = _find_potentials(y.detach(), sums.detach())
        shift = _outer_sum(potentials, m)
        support = ~(y + shift <= 0)
        inverse = torch.linalg.pinv(_newton_matrix(support.to(y.dtype)), hermitian=True)
    # One more Newton step, linear in y and in the sums: the derivatives, and the last digits.
    right = sums - _sums(torch.where(support, y + shift, 0.0))
    change = _outer_sum((inverse @ right.unsqueeze(-1)).squeeze(-1), m)
    x = torch.where(support, y + shift + change, 0.0).clamp(min=0)
    return torch.where(found.unsqueeze(-1).unsqueeze(-1), x, torch.nan)


def _find_potentials(y: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """The potentials of the projection, (..., m + n), and whether they were found, (...)."""
    m = y.shape[-2]
    eps = torch.finfo(y.dtype).eps
    everywhere = torch.linalg.pinv(_newton_matrix(torch.ones_like(y)), hermitian=True)
    potentials = (everywhere @ (sums - _sums(y)).unsqueeze(-1)).squeeze(-1)  # those of the affine hull
    value, slope = _dual(potentials, y, sums)
    scale = sums.abs().amax(dim=-1).clamp(min=torch.finfo(y.dtype).tiny)
    size = scale + y.abs().amax(dim=(-2, -1))
    identity = torch.eye(sums.shape[-1], dtype=y.dtype, device=y.device)
    length = torch.ones_like(value)
    step = torch.zeros_like(potentials)
    fresh = torch.ones_like(value, dtype=torch.bool)
    for _ in range(_MAX_STEPS):
        off = slope.abs().amax(dim=-1)
        active = ~(off <= _ROUND_OFF * eps * size)
        if not host_flags(active)[0][0]:
            break
        damping = (off / scale).clamp(max=_DAMPING).unsqueeze(-1).unsqueeze(-1)
        matrix = _newton_matrix((y + _outer_sum(potentials, m) > 0).to(y.dtype)) + damping * identity
        newton = torch.linalg.solve_ex(matrix, -slope.unsqueeze(-1)).result.squeeze(-1)
        step, length = torch.where(fresh.unsqueeze(-1), newton, step), torch.where(fresh, 1.0, length / 2)
        trial = potentials + length.unsqueeze(-1) * step
        new_value, new_slope = _dual(trial, y, sums)
        slack = _ROUND_OFF * eps * size * size
        fresh = (new_value <= value + _ARMIJO * length * (slope * step).sum(dim=-1) + slack) & active
        taken = fresh.unsqueeze(-1)
        potentials, slope = torch.where(taken, trial, potentials), torch.where(taken, new_slope, slope)
        value = torch.where(fresh, new_value, value)
    return potentials, ~active


def _dual(potentials: Tensor, y: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the dual function, ||max(y + u + v, 0)||^2 / 2 - (u, v) . sums, and its gradient."""
    x = (y + _outer_sum(potentials, y.shape[-2])).clamp(min=0)
    return x.square().sum(dim=(-2, -1)) / 2 - (potentials * sums).sum(dim=-1), _sums(x) - sums


def _newton_matrix(counts: Tensor) -> Tensor:
    """The second derivative of the dual: the Jacobian of the sums in the potentials, (..., m + n, m + n).

    `counts` (..., m, n) is 1 on the support, else 0.
    """
    upper = torch.cat([torch.diag_embed(counts.sum(dim=-1)), counts], dim=-1)
    lower = torch.cat([counts.mT, torch.diag_embed(counts.sum(dim=-2))], dim=-1)
    return torch.cat([upper, lower], dim=-2)


def _sums(x: Tensor) -> Tensor:
    """Row sums and column sums, (..., m + n)."""
    return torch.cat([x.sum(dim=-1), x.sum(dim=-2)], dim=-1)


def _outer_sum(potentials: Tensor, m: int) -> Tensor:
    """u_i + v_j, (..., m, n)."""
    return potentials[..., :m].unsqueeze(-1) + potentials[..., m:].unsqueeze(-2)
