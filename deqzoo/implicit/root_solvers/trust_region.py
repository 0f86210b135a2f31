"""Trust regions: a model of the function is believed within a radius, which follows how well it foretold.

For any problem whose model is quadratic: roots and least squares (Gauss-Newton), and minimisers. Each system of a batch
has its own radius.

Sources: Moré, "The Levenberg-Marquardt Algorithm: Implementation and Theory", 1978; Moré, Sorensen, "Computing a Trust
Region Step", 1983; Powell, "A Hybrid Method for Nonlinear Equations", 1970 (the dogleg).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..linear_solvers.base import dot, row_norm, safe_divide

ACCEPTABLE = 1e-4  # the least ratio of the fall that came to the predicted one, for a step to be taken
START = 100.0  # the first radius, in sizes of the start
_MOST_ITERATIONS = 60


def next_radius(radius: Tensor, ratio: Tensor, length: Tensor) -> Tensor:
    """The radius after a step of this length whose fall was `ratio` times the predicted one, all (systems,).

    Below 1/4, or where the ratio is not finite, a quarter of the step; above 3/4 at least twice the step.

    >>> one = torch.ones(3)
    >>> next_radius(one, torch.tensor([0.1, 0.5, 0.9]), one)
    tensor([0.2500, 1.0000, 2.0000])
    """
    poor, good = ~(ratio >= 0.25), ratio > 0.75
    return torch.where(poor, length / 4, torch.where(good, torch.maximum(radius, 2 * length), radius))


def minimise_quadratic(hessian: Tensor, gradient: Tensor, radius: Tensor) -> Tensor:
    """The exact minimiser of g . s + s . H s / 2 over ||s|| <= radius, (systems, unknowns).

    (H + lambda I) s = -g with the least lambda >= 0 that makes H + lambda I positive semidefinite and s short, by the
    eigenvalues of H and Newton's method on 1 / radius - 1 / ||s(lambda)||, kept in a bracket. In the "hard case",
    where g has no part along the eigenvector of the least eigenvalue, that vector fills the step up to the radius.

    Args:
        hessian: H, symmetric, (systems, n, n); a system that is not finite gets a step of NaN.
        gradient: g, (systems, n).
        radius: positive, (systems,); inf: no limit (H must be positive definite then).

    >>> H, g = torch.diag(torch.tensor([2.0, -1.0])).unsqueeze(0), torch.tensor([[2.0, 0.0]])
    >>> minimise_quadratic(H, g, torch.tensor([1.0])).abs().round(decimals=3)  # indefinite: it goes to the boundary
    tensor([[0.6670, 0.7450]])
    """
    sound = torch.isfinite(hessian).all(dim=2).all(dim=1, keepdim=True) & torch.isfinite(gradient).all(1, keepdim=True)
    matrix = torch.where(sound.unsqueeze(2), hessian, torch.eye(hessian.shape[-1]).to(hessian))
    values, vectors = torch.linalg.eigh(matrix)
    c = (vectors.mT @ torch.where(sound, gradient, torch.ones_like(gradient)).unsqueeze(2)).squeeze(2)
    limit = radius.unsqueeze(1)
    largest = values.abs().amax(dim=1, keepdim=True)
    tiny = torch.finfo(values.dtype).eps * largest
    indefinite = values[:, :1] < -tiny
    # Shifted so that the least eigenvalue is about zero unless H is positive definite.
    values = values + (tiny - values[:, :1]).clamp(min=0)
    curved = largest > 0  # else the model is linear, and falls up to the radius
    inside = ~indefinite & curved & (row_norm(safe_divide(c, values)).unsqueeze(1) <= limit)
    low, high = torch.zeros_like(limit), row_norm(c).unsqueeze(1) / limit
    shift = (low + high) / 2 if values.shape[1] == 0 else high
    for _ in range(_MOST_ITERATIONS):
        damped = values + shift
        length = row_norm(safe_divide(c, damped)).unsqueeze(1)
        long = length > limit
        low, high = torch.where(long, shift, low), torch.where(long, high, shift)
        slope = (safe_divide(c, damped) ** 2 / damped).sum(dim=1, keepdim=True)
        newton = shift + (length / limit - 1) * safe_divide(length**2, slope)
        bracketed = (newton > low) & (newton < high)
        shift = torch.where(bracketed, newton, (low + high) / 2)
    step = -safe_divide(c, values + torch.where(inside, torch.zeros_like(shift), shift))
    missing = (limit**2 - dot(step, step)).clamp(min=0).sqrt()
    hard = indefinite & (missing > 1e-3 * limit)
    sign = torch.where(step[:, :1] < 0, -1.0, 1.0).to(step)
    filled = sign * (step[:, :1] ** 2 + missing**2).sqrt()
    step = torch.cat([torch.where(hard, filled, step[:, :1]), step[:, 1:]], dim=1)
    step = (vectors @ step.unsqueeze(2)).squeeze(2)
    return torch.where(sound, step, torch.full_like(step, torch.nan))


def dogleg(newton: Tensor, steepest: Tensor, radius: Tensor) -> Tensor:
    """The point at ||s|| <= radius on the path 0, steepest, newton, (systems, unknowns).

    `steepest` is the minimiser of the model along its gradient, `newton` the minimiser of the model.

    >>> dogleg(torch.tensor([[4.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([3.0]))
    tensor([[3., 0.]])
    """
    of_newton, of_steepest = dogleg_shares(newton, steepest, radius)
    short = of_steepest * steepest
    return torch.where(of_newton > 0, short + of_newton * newton, short)


def dogleg_shares(newton: Tensor, steepest: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of `newton` and `steepest` in that point, (systems, 1) each."""
    limit = radius.unsqueeze(1)
    length = dot(steepest, steepest).sqrt()
    cut = safe_divide(limit, length).clamp(max=1.0)
    across = newton - steepest
    a, b, c = dot(across, across), dot(steepest, across), dot(steepest, steepest) - limit**2
    # The root of a t^2 + 2 b t + c = 0 in [0, 1], without cancellation.
    root = (b**2 - a * c).clamp(min=0).sqrt()
    t = torch.where(b > 0, safe_divide(-c, b + root), safe_divide(root - b, a)).clamp(0, 1)
    inside = length < limit
    return torch.where(inside, t, torch.zeros_like(t)), torch.where(inside, 1 - t, cut)
