"""Entropic optimal transport as a differentiable function: Sinkhorn's iteration on the potentials."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from .adjoints import Implicit
from .fixed_point_solvers import FixedPointSolver
from .linear_solvers import CG, LinearSolver
from .linear_solvers.base import default_tolerance
from .minimizers import Minimizer, NewtonCG, TrustRegion
from .modes import eager, host_flags, host_max, no_derivatives, unwrap
from .problem import Problem, returned
from .solution import OnFailure, Solution

_DENSE = 256  # unknowns, up to which the Hessian is written out
_SUMS = 1e4  # eps: by which the masses of two marginals may differ


class Transport(NamedTuple):
    """The solution of `sinkhorn`.

    Attributes:
        plan: P, (..., m, n).
        f, g: its potentials, (..., m) and (..., n); without `marginal_penalty` they may be shifted by a constant, which
            a . f = b . g fixes.
        value: the minimum of the regularised cost, (...). Its derivative in `cost` is P, in `a` it is f + a constant.
    """

    plan: Tensor
    f: Tensor
    g: Tensor
    value: Tensor


@dataclasses.dataclass(frozen=True)
class _Entropic:
    """The dual problem, in the log domain; all tensors have the same batch axes.

    Attributes:
        epsilon: of the entropy.
        penalty: of marginals that are missed; None: they are met.
    """

    epsilon: float | Tensor
    penalty: float | Tensor | None

    def potentials(self, g: Tensor, cost: Tensor, b: Tensor, coarser: float | Tensor = 1.0) -> Tensor:
        """f_i = -s e log sum_j b_j exp((g_j - C_ij) / e), where e is `coarser` (..., 1) times epsilon.

        s is 1, or penalty / (penalty + e): the best f for a g.
        """
        epsilon = self.epsilon * coarser
        share = 1.0 if self.penalty is None else self.penalty / (self.penalty + epsilon)
        score = (b + torch.finfo(b.dtype).tiny).log() + g / epsilon  # so that a weight of 0 has a derivative
        wide = epsilon.unsqueeze(-1) if isinstance(epsilon, Tensor) and epsilon.dim() else epsilon
        return -share * epsilon * torch.logsumexp(score.unsqueeze(-2) - cost / wide, dim=-1)

    def round_trip(self, f: Tensor, cost: Tensor, a: Tensor, b: Tensor, coarser: float | Tensor = 1.0) -> Tensor:
        """Sinkhorn's iteration: the f of the g of an f; shifted to a . f = 0 where that is free."""
        f = self.potentials(self.potentials(f, cost.mT, a, coarser), cost, b, coarser)
        return f if self.penalty is not None else f - _mean(f, a)

    def plan(self, f: Tensor, g: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """P of the potentials."""
        exponent = (f.unsqueeze(-1) + g.unsqueeze(-2) - cost) / self.epsilon
        return a.unsqueeze(-1) * b.unsqueeze(-2) * exponent.exp()

    def value(self, f: Tensor, g: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The dual objective, (...), whose maximum is the minimum of the primal one."""
        gain = torch.zeros_like(f[..., 0])
        for weight, h in ((a, f), (b, g)):
            fall = h if self.penalty is None else -self.penalty * torch.expm1(-h / self.penalty)
            gain = gain + (weight * fall).sum(dim=-1)
        mass = self.plan(f, g, cost, a, b).sum(dim=(-2, -1)) - a.sum(dim=-1) * b.sum(dim=-1)
        return gain - self.epsilon * mass

    # The unknown of what follows is y = (f + epsilon) w, with w the roots of the weights a: f may be 0, where a
    # relative tolerance has no measure; and in y the dual problem is well scaled, however small some of the weights.

    def unknown(self, f: Tensor, a: Tensor) -> Tensor:
        """y of f."""
        return (f + self.epsilon) * _roots(a)

    def potential(self, y: Tensor, a: Tensor) -> Tensor:
        """f of y."""
        return y / _roots(a) - self.epsilon

    def iteration(self, y: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Sinkhorn's iteration on y."""
        return self.unknown(self.round_trip(self.potential(y, a), cost, a, b), a)

    def objective(self, y: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Minus the dual of f and its best g, over epsilon; convex, with a minimum at a . f = 0 where that is free.

        The mass is added, a constant: f + epsilon has the round-off of an objective of its size.
        """
        f = self.potential(y, a)
        fall = -self.value(f, self.potentials(f, cost.mT, a), cost, a, b) / self.epsilon - a.sum(dim=-1)
        return fall if self.penalty is not None else fall + (_mean(f, a).squeeze(-1) / self.epsilon).square() / 2

    def conditions(self, y: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """D (f - T(f)) / w = 0, D the row sums of the plan, T the round trip: its Jacobian is symmetric and definite.

        That of f - T(f) is I - D^-1 S with a symmetric S; where f is free by a constant, D a . f / sum a, which is
        zero, makes it regular.
        """
        f = self.potential(y, a)
        residual = f - self.potentials(self.potentials(f, cost.mT, a), cost, b)
        if self.penalty is None:
            residual = residual - _mean(residual, a) + _mean(f, a)
        return self.row_sums(f, cost, a, b) * residual / _roots(a)

    def precondition(self, v: Tensor, y: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """w D^-1 w v."""
        sums = self.row_sums(self.potential(y, a), cost, a, b)
        least = torch.finfo(v.dtype).eps * sums.amax(dim=-1, keepdim=True)
        return v * _roots(a).square() / torch.maximum(sums, least)

    def row_sums(self, f: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Of the plan, (..., m); constants to the derivatives, since they multiply zeros."""
        if self.penalty is None:
            return a.detach()
        return self.plan(f, self.potentials(f, cost.mT, a), cost, a, b).sum(dim=-1).detach()


@overload
def sinkhorn(
    cost: Tensor, a: Tensor, b: Tensor, *, return_solution: Literal[False] = False, **options: Any
) -> Transport: ...


@overload
def sinkhorn(
    cost: Tensor, a: Tensor, b: Tensor, *, return_solution: Literal[True], **options: Any
) -> tuple[Transport, Solution]: ...


@eager
def sinkhorn(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: float | Tensor = 0.1,
    marginal_penalty: float | Tensor | None = None,
    solver: Minimizer | FixedPointSolver | None = None,
    linear_solver: LinearSolver | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
) -> Any:
    """The plan P of least cost between two weights, with an entropy: differentiable in cost, weights and epsilon.

        min_P  sum P C + epsilon KL(P, a b^T)    over P >= 0 with row sums a and column sums b

    or, with a `marginal_penalty` rho (unbalanced), over all P >= 0 with rho KL(P 1, a) + rho KL(P^T 1, b) added, where
    KL(p, q) = sum p log(p / q) - p + q. The solution is P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon). Its
    potentials start from Sinkhorn's iteration in the log domain, a step for each of falling values of epsilon, and end
    with a minimiser of the dual problem; the derivative is that of the fixed point of the iteration.

    Args:
        cost: C, (..., m, n).
        a, b: weights >= 0, (..., m) and (..., n), of the same sum unless there is a `marginal_penalty`; some may be 0.
        epsilon: above 0, a number or a tensor (). The smaller, the sharper the plan, and the longer the way.
        solver: of the dual problem with min(m, n) unknowns, a minimiser: `TrustRegion()` by default for at most 256,
            `NewtonCG()` for more. It has converged, too, when each marginal is met to `tol` times the mean weight
            (geometric mean of the two). Or a fixed-point solver: `Picard` is Sinkhorn's own iteration.
        linear_solver: of the adjoint system, as many unknowns, symmetric and positive definite; `CG()` by default.
        on_failure, return_solution: see `fixed_point`. Each index of the leading axes is a system.

    Source: Cuturi, "Sinkhorn Distances", 2013; Chizat et al., "Scaling algorithms for unbalanced optimal transport
    problems", 2018; Schmitzer, "Stabilized Sparse Scaling Algorithms for Entropy Regularized Transport Problems", 2019.

    >>> half = torch.tensor([0.5, 0.5])
    >>> sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), half, half).plan
    tensor([[4.9998e-01, 2.2699e-05],
            [2.2699e-05, 4.9998e-01]])
    """
    cost, a, b = _checked(cost, a, b, epsilon, marginal_penalty)
    entropic = _Entropic(epsilon, marginal_penalty)
    turned = cost.shape[-2] > cost.shape[-1]  # the smaller side has the unknowns
    level = _level(cost, marginal_penalty)
    cost = cost - level[..., None, None]
    given = (cost.mT, b, a) if turned else (cost, a, b)
    with no_derivatives():
        start = _start(entropic, *(t.detach() for t in given))
    if solver is None:
        solver = TrustRegion() if start.shape[-1] <= _DENSE else NewtonCG()
    minimises = isinstance(solver, Minimizer)
    if isinstance(solver, Minimizer) and not solver.atol and start.numel():
        solver = dataclasses.replace(solver, atol=_absolute_tolerance(solver, epsilon, given[1]))
    problem = Problem(
        name="argmin" if minimises else "fixed_point",
        f=entropic.objective if minimises else entropic.iteration,
        y0=start,
        args=given,
        solver=solver,
        conditions=entropic.conditions,
        linear_solver=CG() if linear_solver is None else linear_solver,
        batch_dims=cost.dim() - 2,
        tags=("positive_definite",),
        preconditioner=entropic.precondition,
        on_failure=on_failure,
    )
    y, solution = returned(*Implicit().apply(problem))
    plan, f, g, value = _assemble(entropic, entropic.potential(y, given[1]), *given)
    half = level.unsqueeze(-1) / 2
    found = Transport(plan, f + half, g + half, value + level * a.sum(dim=-1))
    transport = Transport(found.plan.mT, found.g, found.f, found.value) if turned else found
    return (transport, solution) if return_solution else transport


def _level(cost: Tensor, penalty: float | Tensor | None) -> Tensor:
    """What to subtract from all costs, (...), a constant to the derivatives: the least one, which costs digits alone.

    With a penalty the mass of the plan depends on it: 0.
    """
    cost = cost.detach().flatten(-2)
    return torch.zeros_like(cost.sum(dim=-1)) if penalty is not None or cost.shape[-1] == 0 else cost.amin(dim=-1)


def _absolute_tolerance(solver: Minimizer, epsilon: float | Tensor, a: Tensor) -> float:
    """Of the gradient (P 1 - a) / (epsilon w): `tol` times the mean weight over epsilon; of a batch the least.

    Relative to the gradient at the start, which may be small already, a tolerance can lie below round-off.
    """
    tol = default_tolerance(a.dtype) if solver.tol is None else solver.tol
    return float(unwrap(tol * a.mean(dim=-1) / epsilon).detach().min())


def _start(entropic: _Entropic, cost: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """A start by one round trip for each of the values of epsilon, halved down from the range of the costs."""
    f = torch.zeros_like(cost[..., 0])
    if cost.numel() == 0:
        return entropic.unknown(f, a)
    span = cost.flatten(-2).amax(dim=-1) - cost.flatten(-2).amin(dim=-1)
    halvings = torch.log2(span / entropic.epsilon).ceil().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0, 60)
    for k in reversed(range(host_max(halvings.long()) + 1)):
        f = entropic.round_trip(f, cost, a, b, torch.where(halvings >= k, 2.0**k, 1.0).unsqueeze(-1))
    return entropic.unknown(f, a)


def _assemble(entropic: _Entropic, f: Tensor, cost: Tensor, a: Tensor, b: Tensor) -> Transport:
    """Plan, potentials and value of the row potentials at the fixed point."""
    g = entropic.potentials(f, cost.mT, a)
    f = entropic.potentials(g, cost, b)  # again, so that rows of weight 0 have their derivative too
    if entropic.penalty is None:
        masses = a.sum(dim=-1, keepdim=True) + b.sum(dim=-1, keepdim=True)
        shift = ((a * f).sum(dim=-1, keepdim=True) - (b * g).sum(dim=-1, keepdim=True)) / masses
        f, g = f - shift, g + shift
    return Transport(entropic.plan(f, g, cost, a, b), f, g, entropic.value(f, g, cost, a, b))


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Of each row, (..., 1)."""
    return (values * weights).sum(dim=-1, keepdim=True) / weights.sum(dim=-1, keepdim=True)


def _roots(weights: Tensor) -> Tensor:
    """The roots of the weights over their mean, constants to the derivatives; none is 0."""
    weights = weights.detach()
    return (weights / weights.mean(dim=-1, keepdim=True)).clamp(min=torch.finfo(weights.dtype).eps).sqrt()


def _checked(
    cost: Tensor, a: Tensor, b: Tensor, epsilon: float | Tensor, penalty: float | Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments with the same batch axes; an error where they are no transport problem."""
    if cost.dim() < 2 or a.dim() < 1 or b.dim() < 1 or cost.shape[-2:] != (a.shape[-1], b.shape[-1]):
        shapes = ", ".join(str(tuple(t.shape)) for t in (cost, a, b))
        raise ValueError(f"sinkhorn needs cost (..., m, n), a (..., m) and b (..., n), got {shapes}")
    for name, value in (("epsilon", epsilon), ("marginal_penalty", penalty)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    batch = torch.broadcast_shapes(cost.shape[:-2], a.shape[:-1], b.shape[:-1])
    cost, a, b = (t.expand(*batch, *t.shape[-k:]) for t, k in ((cost, 2), (a, 1), (b, 1)))
    with no_derivatives():
        negative = (a < 0).any(dim=-1) | (b < 0).any(dim=-1)
        sums = a.sum(dim=-1), b.sum(dim=-1)
        differ = (sums[0] - sums[1]).abs() > _SUMS * torch.finfo(cost.dtype).eps * sums[0]
        (has_negative, _), (has_other, _) = host_flags(negative, differ)
    if has_negative:
        raise ValueError("the weights a and b must not be negative")
    if has_other and penalty is None:
        raise ValueError(
            "the weights a and b must have the same sum: divide each by its own, or let marginals be missed by "
            "marginal_penalty="
        )
    return cost, a, b
