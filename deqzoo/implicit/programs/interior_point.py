"""Quadratic programs by a primal-dual interior-point method, a batch at a time."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor

from ..linear_solvers.base import default_tolerance
from ..modes import host_counts, host_flags, in_transform
from ..solution import Solution, Status
from .factor import ActiveSet, Factor
from .program import PrimalDual, QuadraticProgram
from .scaling import ScaledProgram, largest

_BACK = 0.995  # of the way to the boundary
_REGULARISATION = 0.45  # power of eps: 9e-8 in float64, 8e-4 in float32
_PROOF = 0.4  # power of eps: how nearly the conditions of a proof are met, 5e-7 in float64, 2e-3 in float32
_SLOW = 3  # steps without a better iterate, after which more is done for a proof that there is none
_MORE = 100.0  # times the regularisation where a factorisation has failed
_FULL, _BLOCKED = 0.9, 0.1  # lengths of a step that is nearly a whole one, and of one that the boundary ends
_LESS = 0.1  # times the regularisation where a nearly whole step leaves half of the residual, or more
_CENTRED = 0.01  # of the tolerance: no product of slack and multiplier is aimed lower
_MANY = 1000  # unknowns in all, from which on it pays to leave behind the programs that are done
_SHORTEST = 0.2  # a step is not cut shorter in order not to raise the mean product: it has residuals to lower, too


@dataclasses.dataclass(frozen=True)
class InteriorPoint:
    """Mehrotra's predictor-corrector method with primal and dual regularisation, called on a `QuadraticProgram`.

    Each step solves the linearised optimality conditions

        (P + rho I) dx + C'dy              = -(Px + q + C'y)
        C dx + ds - delta dy               = -(Cx + s - d)
        z ds + s dz                        = sigma mu - s z        for the inequalities; ds = 0 for the equalities

    twice by one Cholesky factorisation of H = P + rho I + C' W C, W = 1 / (s / z + delta), which is positive definite
    whatever P and C are: P may be singular or zero, and constraints may repeat. As rho and delta stand on the left side
    alone, they change the way (as the proximal point method, whose centre is the present iterate, does), and not
    the solution. So each step corrects the round-off and the regularisation of the one before; where a whole step
    leaves much of a residual, rho or delta is reduced.

    Mehrotra's method alone can cycle (Cartis 2009). So the second-order correction counts in proportion to the length
    of the predictor's step, no step is longer than the one with the least mean of s z (or a fifth of the way, while
    there are residuals to lower), and where the boundary blocks the way s and z are moved away from it.

    With the rows of C scaled to norm 1 a program has converged when

        |Px + q + C'y| <= tol dual,    |Cx + s - d|_i <= tol primal_i,    s_i z_i <= tol primal_i dual

    with dual = max(|Px|, |q|, |C'y|) and primal_i = max(|x|, |d_i|) in the maximum norm. It is INFEASIBLE when y proves
    that Cx + s = d has no solution (C'y is nearly 0, d'y < 0, z >= 0), and UNBOUNDED when x is a direction in which
    the objective falls for ever. In float32 the condition of H, about the square of that of the problem, leaves few
    digits.

    Args:
        tol: None: eps^(3/4) of the dtype (float64 2e-12, float32 6e-6).
        max_steps: steps at most.
        patience: steps without a better iterate after which a program has stalled.

    Sources: Mehrotra, "On the Implementation of a Primal-Dual Interior Point Method", 1992; Friedlander, Orban, "A
    Primal-Dual Regularized Interior-Point Method for Convex Quadratic Programs", 2012; Schwan et al., "PIQP: A Proximal
    Interior-Point Quadratic Programming Solver", 2023; Cartis, "Some Disadvantages of a Mehrotra-Type Primal-Dual
    Corrector Interior Point Algorithm for Linear Programming", 2009.
    """

    tol: float | None = None
    max_steps: int = 60
    patience: int = 15

    def __post_init__(self) -> None:
        if self.tol is not None and not self.tol >= 0:
            raise ValueError(f"tol must be a number >= 0, got {self.tol}")
        if self.max_steps < 0 or self.patience < 1:
            raise ValueError("max_steps must be at least 0 and patience at least 1")

    def __call__(self, program: QuadraticProgram, start: PrimalDual | None = None) -> tuple[Solution, ActiveSet]:
        """Solve each program, from `start` where one is given: a solution of a program nearby, (programs, ...).

        Returns the solution, whose `value` is a `PrimalDual`, and what its derivatives need.
        """
        tol = default_tolerance(program.q.dtype) if self.tol is None else self.tol
        return _Solve(ScaledProgram.of(program), tol, self.patience).run(start, self.max_steps)


class _Solve:
    """One solve of a batch. Vectors are rows, (programs, 1, n), in the scaled program.

    Attributes:
        point: the iterate: x, the multipliers y of all rows, and the slacks s of the inequalities, side by side.
        best, residual: the best iterate, and what the stop rule compares with the tolerance there.
        factor: the last factorisation.
        left: programs that are active, at most, as the host knows; not in transforms.
        few_left: whether they are so few that they had better go on alone.
    """

    factor: Factor
    left: int
    few_left: bool

    def __init__(self, scaled: ScaledProgram, tol: float, patience: int) -> None:
        self.scaled, self.tol, self.patience = scaled, tol, patience
        self.n, self.p, self.k = scaled.q.shape[2], scaled.equalities, scaled.C.shape[1]
        self.sizes = (self.n, self.p, self.k - self.p, self.k - self.p)
        self.Ct = scaled.C.mT
        self.fixed_primal = torch.maximum(scaled.minus_d.abs(), scaled.least_primal)
        self.eps = eps = torch.finfo(scaled.q.dtype).eps
        self.proof, self.reach = eps**_PROOF, scaled.least_primal / eps**0.25
        start = eps**_REGULARISATION * torch.ones_like(scaled.curvature)
        self._regularise(start, start)

    def run(self, start: PrimalDual | None, max_steps: int) -> tuple[Solution, ActiveSet]:
        """Step until no program is active."""
        self._begin()
        if start is not None:
            self._warm(start)
        self.best = self.point
        self.residual = torch.full_like(self.point[:, 0, 0], torch.inf)
        self.before = self.residual
        self.length: Tensor = torch.zeros_like(self.point[:, :1, :1])
        self.active = self.scaled.finite & (self.residual > 0)  # take on the batch axes of a vmap
        self.status = torch.where(self.active, Status.MAX_STEPS, Status.DIVERGED)
        self.since = self.steps = torch.zeros_like(self.status)
        self._evaluate()
        taken = self._iterate(max_steps) if self._judge() else 0
        reached = self.residual <= self.tol
        self.status = torch.where(reached & self.scaled.finite, Status.CONVERGED, self.status)
        x, y, z, s = self.best.split(self.sizes, dim=2)
        value = self.scaled.restore(x, torch.cat([y, z], dim=2), s)
        active = ActiveSet(self.factor, (z > s * self.scaled.curvature).to(z.dtype))
        return Solution(value, self.status, self.residual, self.steps, taken + 1), active

    def _iterate(self, most: int) -> int:
        """Step until no program is active; how many steps. Where half of a batch is done, the rest goes on alone."""
        for taken in range(most):
            if self.few_left:
                rows = self.active.logical_not().long().argsort(stable=True)[: self.left]  # `nonzero` would wait
                part = self._part(rows)
                taken += part._iterate(most - taken)
                self._take_back(part, rows)
                return taken
            self._step()
            self._evaluate()
            if not self._judge():
                return taken + 1
        return most

    def _part(self, rows: Tensor) -> _Solve:
        """The same of some programs."""
        part = copy.copy(self)
        part.few_left = False
        part.scaled, factor = self.scaled.part(rows), self.factor
        part.factor = Factor(part.scaled, factor.lower[rows], factor.weights[rows], factor.failed[rows])
        part.relative = self.relative[0][rows], self.relative[1][rows]
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(part, name, value[rows])
        part.Ct = part.scaled.C.mT
        return part

    def _take_back(self, part: _Solve, rows: Tensor) -> None:
        for name in ("best", "residual", "status", "steps", "active"):
            setattr(self, name, getattr(self, name).index_copy(0, rows, getattr(part, name)))
        own, found = self.factor, part.factor
        pairs = ((own.lower, found.lower), (own.weights, found.weights), (own.failed, found.failed))
        self.factor = Factor(self.scaled, *(t.index_copy(0, rows, new) for t, new in pairs))

    def _regularise(self, of_primal: Tensor, of_dual: Tensor) -> None:
        """Set rho and delta, relative to the sizes of P and of a slack over a multiplier, and with them P + rho I."""
        scaled = self.scaled
        self.relative = of_primal, of_dual
        self.delta = of_dual / scaled.curvature
        P = scaled.P[:1] if scaled.shared else scaled.P
        self.regularised = P + of_primal * scaled.curvature * torch.eye(self.n, dtype=P.dtype, device=P.device)

    def _regularise_less(self, held: Tensor) -> None:
        """Reduce what holds the residual up: rho where that of the slope is left, delta where that of the rows is.

        A whole step with delta leaves delta / (delta + r^2) of the residual along a combination of the active rows of
        norm r, which is nearly all where they are nearly dependent.
        """
        less = []
        left = largest(self.slope / self.dual) > self.tol, largest(self._missing() / self.primal) > self.tol
        for relative, error in zip(self.relative, left, strict=True):
            where = (held & error).any(dim=0, keepdim=True) if self.scaled.shared else held & error
            less.append(torch.where(where, (_LESS * relative).clamp(min=self.eps).minimum(relative), relative))
        self._regularise(*less)

    def _factorise(self, ratio: Tensor) -> None:
        """Factorise with the slacks over the multipliers, (programs, 1, m)."""
        of_equalities = (1 / self.delta).expand(-1, 1, self.p)
        weights = of_equalities if self.scaled.shared else (ratio + self.delta).reciprocal()
        if self.p and not self.scaled.shared:
            weights = torch.cat([of_equalities, weights], dim=2)
        self.weights = weights
        self.factor = Factor.of(self.scaled, self.regularised, weights)

    def _begin(self) -> None:
        """Start where a penalty on the constraints is least; slacks and multipliers are made positive."""
        scaled, (_, p, m, _) = self.scaled, self.sizes
        self._factorise((1 / scaled.curvature).expand(scaled.q.shape[0], 1, m))
        x, y = self._direction(scaled.q, scaled.minus_d)
        if m:
            z = y[..., p:]
            s = -z / scaled.curvature
            unit = torch.maximum(largest(s), scaled.least_primal)
            y = torch.cat([y[..., :p], _positive(z, scaled.curvature * unit), _positive(s, unit)], dim=2)
        self.point = torch.cat([-x, y], dim=2)

    def _warm(self, start: PrimalDual) -> None:
        """Take over the start where it is finite, as far from the boundary as it is from a solution."""
        cold, (_, p, m, _) = self.point, self.sizes
        x, y = self.scaled.take(start)
        s = -torch.baddbmm(self.scaled.minus_d, x, self.Ct)[..., p:]
        self.point = torch.cat([x, y, s], dim=2)
        if m:
            self._evaluate()
            self._centre(torch.ones_like(x[:, 0, 0], dtype=torch.bool))
        sound = torch.isfinite(largest(self.point))
        self.point = torch.where(sound, self.point, cold)

    def _centre(self, where: Tensor) -> None:
        """Take slacks and multipliers as far from the boundary as the point is from a solution, at least."""
        p = self.p
        primal = self.primal[..., p:]
        unpaired = torch.minimum(self.s / primal, self.z / self.dual)
        errors = [self.slope / self.dual, self._missing() / self.primal, unpaired]
        error = largest(torch.cat(errors, dim=2)).clamp(self.tol**0.5, 1.0)
        s, z = torch.maximum(self.s, error * primal), torch.maximum(self.z, error * self.dual)
        centred = torch.cat([self.x, self.y[..., :p], z, s], dim=2)
        self.point = torch.where(where.reshape(-1, 1, 1), centred, self.point)

    def _evaluate(self) -> None:
        """What the iterate makes of the conditions, and the sizes of their terms."""
        scaled = self.scaled
        self.x, self.y, self.s = self.point.split((self.n, self.k, self.sizes[2]), dim=2)
        self.z = self.y[..., self.p :]
        self.product = self.s * self.z
        gradient = torch.baddbmm(scaled.q, self.x, scaled.P)
        self.slope = torch.baddbmm(gradient, self.y, scaled.C)
        self.off = torch.baddbmm(scaled.minus_d, self.x, self.Ct)
        self.primal = torch.maximum(self.fixed_primal, largest(self.x))
        self.dual = torch.maximum(scaled.least_dual, largest(gradient))

    def _judge(self) -> bool:
        """Judge the iterate and keep it if it is the best; whether any program is active."""
        errors = [self.slope / self.dual, self._missing() / self.primal]
        if self.sizes[2]:
            errors.append(self.product / (self.primal[..., self.p :] * self.dual))
        residual = largest(torch.cat(errors, dim=2)).reshape(self.residual.shape)
        improved = residual < self.residual
        self.best = torch.where(improved.reshape(-1, 1, 1), self.point, self.best)
        self.residual = torch.where(improved, residual, self.residual)
        self.since = (self.since + 1) * ~improved
        self.active = self.active & (self.residual > self.tol)
        slow = self.active & ((self.since >= _SLOW) | self.factor.failed)
        held = self.active & (residual > 0.5 * self.before) & (self.length > _FULL).reshape(slow.shape)
        self.before = residual
        if in_transform():
            (going, _), (is_slow, _), (is_held, _) = host_flags(self.active, slow, held)
            self.few_left = False
        else:
            self.left, *flags = host_counts(self.active, slow, held)
            going, is_slow, is_held = self.left > 0, flags[0] > 0, flags[1] > 0
            self.few_left = 2 * self.left <= len(held) and len(held) * self.n >= _MANY and not self.scaled.shared
        if is_held:
            self._regularise_less(held.reshape(-1, 1, 1))
        if is_slow:
            self._give_up()
            going = host_flags(self.active)[0][0]
        self.steps = self.steps + self.active
        return going

    def _missing(self) -> Tensor:
        """Cx + s - d, with s = 0 in the equalities."""
        if not self.sizes[2]:
            return self.off
        missing = self.off[..., self.p :] + self.s
        return torch.cat([self.off[..., : self.p], missing], dim=2) if self.p else missing

    def _give_up(self) -> None:
        """End programs that are proven to have no solution, that have stalled, or are lost; regularise others more."""
        status = torch.where(self.since >= self.patience, Status.STALLED, Status.MAX_STEPS)
        lost = ~torch.isfinite(largest(self.point)).reshape(status.shape)
        status = torch.where(lost, Status.DIVERGED, status)
        status = torch.where(self._is_unbounded(), Status.UNBOUNDED, status)
        status = torch.where(self._is_infeasible(), Status.INFEASIBLE, status)
        self.status = torch.where(self.active, status, self.status)
        self.active = self.active & (status == Status.MAX_STEPS)
        failed = self.factor.failed.reshape(-1, 1, 1)
        if self.sizes[2]:
            blocked = self.active & (self.since >= _SLOW) & (self.length < _BLOCKED).reshape(status.shape)
            self._centre(blocked)
            self._evaluate()
        self._regularise(*(torch.where(failed, _MORE * relative, relative) for relative in self.relative))

    def _is_infeasible(self) -> Tensor:
        """Where the multipliers prove that nothing meets the constraints, (programs,).

        With C'y = 0, z >= 0, every point that meets them has d'y = (Cx + s)'y >= 0. So d'y < 0 and a C'y that is nearly
        0 prove that such points are far out, at least. Where equalities contradict each other it is the change of y
        that comes near to a proof.
        """
        reach = torch.maximum(largest(self.scaled.minus_d), torch.maximum(largest(self.x), self.scaled.least_primal))
        found, change = torch.zeros_like(reach, dtype=torch.bool), self.growth[..., self.n : self.n + self.k]
        for y in (self.y, torch.cat([change[..., : self.p], change[..., self.p :].clamp(min=0)], dim=2)):
            certain = (self.scaled.minus_d * y).sum(dim=2, keepdim=True) * self.proof
            found = found | ((certain > 0) & (largest(torch.bmm(y, self.scaled.C)) * reach <= certain))
        return found.reshape(self.status.shape)

    def _is_unbounded(self) -> Tensor:
        """Where x, or its change, proves that the objective falls for ever, (programs,).

        That is: Px = 0, Ax = 0, Gx <= 0, nearly, and q'x < 0: a least point, if any, or its multipliers are far out.
        """
        scaled = self.scaled
        found = torch.zeros_like(scaled.least_dual, dtype=torch.bool)
        for x in (self.x, self.growth[..., : self.n]):
            fall = -(scaled.q * x).sum(dim=2, keepdim=True) * self.proof
            Cx = torch.bmm(x, self.Ct)
            leaves = largest(torch.cat([Cx[..., : self.p], Cx[..., self.p :].clamp(min=0)], dim=2))
            flat = largest(torch.bmm(x, scaled.P)) * self.reach <= fall
            found = found | ((fall > 0) & flat & (leaves * self.dual <= fall))
        return found.reshape(self.status.shape)

    def _step(self) -> None:
        """Predictor, corrector, and a step of one length for all."""
        s, z, p = self.s, self.z, self.p
        ratio = s / z
        self._factorise(ratio)
        x, y = self._direction(self.slope, self.off)
        if not self.sizes[2]:
            self._move(x, [y], torch.ones_like(x[..., :1]))
            return
        part = y[..., p:] / z  # of z; of s it is -(1 + part)
        length = (0.5 + largest(part + 0.5)).clamp(min=1).reciprocal()  # the larger of 1 + part and -part
        second = s * torch.addcmul(part, part, part)  # minus the product of both changes, over z
        mu, product = self.product.mean(dim=2, keepdim=True), (second * z).mean(dim=2, keepdim=True)
        left = 1 - length - length**2 * product / mu  # of mu, by the predictor
        least = _CENTRED * self.tol * self.primal[..., p:].amin(dim=2, keepdim=True) * self.dual
        correction = torch.addcdiv(length * second, torch.maximum(mu * left**3, least), z)
        off = self.off[..., p:] + correction
        x, y = self._direction(self.slope, torch.cat([self.off[..., :p], off], dim=2) if p else off)
        to_z = y[..., p:]
        to_s = torch.addcmul(correction - s, ratio, to_z, value=-1)
        nearest = torch.minimum(to_s / s, to_z / z).amin(dim=2, keepdim=True)
        length = (nearest / -_BACK).clamp(min=1).reciprocal()
        slope = (s * to_z + z * to_s).mean(dim=2, keepdim=True)  # mu(length) = mu + slope length + bend length^2
        bend = (to_s * to_z).mean(dim=2, keepdim=True)
        lowest = torch.where((slope < 0) & (bend > 0), slope / (-2 * bend), 1.0)
        self._move(x, [y, to_s], torch.minimum(length, lowest.clamp(min=_SHORTEST)))

    def _direction(self, slope: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
        """-dx and dy of the linearised conditions."""
        x = self.factor.solve(torch.baddbmm(slope, self.weights * off, self.scaled.C))
        return x, self.weights * torch.baddbmm(off, x, self.Ct, alpha=-1)

    def _move(self, minus_x: Tensor, others: list[Tensor], length: Tensor) -> None:
        """Take the step, where the program is active and could be factorised."""
        self.length = length
        moves = (self.active & ~self.factor.failed).reshape(-1, 1, 1)
        self.growth = torch.cat([-minus_x, *others], dim=2)
        self.point = torch.where(moves, self.point + length * self.growth, self.point)


def _positive(rows: Tensor, unit: Tensor) -> Tensor:
    """Shifted so that all entries are at least `unit`, where one is not positive."""
    below = -rows.amin(dim=2, keepdim=True)
    return torch.where(below >= 0, rows + below + unit, rows)
