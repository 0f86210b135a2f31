"""The stages of diagonally implicit methods, Y = base + gh f(t, Y): simplified Newton iterations; see the method."""

from __future__ import annotations

import torch
from torch import Tensor

from ..adjoints import Implicit
from ..api import root
from ..implicit_function import ImplicitFunction
from ..linear_solvers import GMRES, Dense, LinearSolver
from ..linear_solvers.base import row_norm
from ..modes import host_flags, no_derivatives
from ..operator import from_pullback, pullback
from ..root_solvers import NewtonKrylov
from .counted_field import CountedField
from .linearise import Factors, jacobian
from .solvers import DiagonallyImplicit
from .stage_values import Length
from .tolerances import scale

_ITERATIONS = 10  # of one stage with one Jacobian
_RENEWALS = 2  # of the Jacobian within a stage: from then on it is Newton's method
_SLOW = 0.03  # rate of convergence above which the next step gets a new Jacobian
_ROUNDING = 10  # units of rounding of a stage, below which iterating is in vain
_TRUSTED = 0.01  # rate at which a stage is believed to converge because the one before did
_ROUGHLY = 0.1  # relative residual of an error that is filtered


class StageSolver:
    """Solves stage after stage, with a Jacobian that it keeps for as long as it serves.

    Under `batch_dims=1` each system has a Jacobian; where one needs another, all that take the step get theirs.
    """

    def __init__(self, field: CountedField) -> None:
        self._field = field
        self._matrix: Tensor | None = None  # of all systems
        self._renew = True  # before the next step
        self._factors: Factors | None = None
        self._rows: Tensor | None = None
        self._eta = torch.empty(0)  # rate / (1 - rate) of each system that takes the step

    @property
    def options(self) -> DiagonallyImplicit:
        """The method."""
        assert isinstance(self._field.solver, DiagonallyImplicit)
        return self._field.solver

    def begin(self, t: Tensor, h: Length, y: Tensor, rows: Tensor | None) -> None:
        """Be ready for the stages of a step."""
        self._rows = rows
        if y.shape[1] > self.options.dense_up_to:
            return
        with no_derivatives():
            t, y = t.detach(), y.detach()
            gh = self._field.tableau.diagonal(1) * (h if isinstance(h, float) else h.detach())
            self._eta = torch.ones_like(y[:, 0]) if y.shape[1] else y.new_ones(len(y))
            if self._renew or self._field.replays or not self._known(rows, len(y)):
                self._linearise(t, y)
            self._renew = False
            self._factorise(gh)

    def solve(self, t: Tensor, gh: Length, base: Tensor, y: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        """(Y, k) with Y = base + gh k and k = f(t, Y) near `guess`; NaN where the iteration does not converge."""
        options = self.options
        rounding = _ROUNDING * torch.finfo(y.dtype).eps
        unit = scale(options, y.detach().abs(), self._rows, least=rounding)
        if y.shape[1] > options.dense_up_to:
            x = self._by_newton_krylov(t, gh, base, unit, guess)
        else:
            with no_derivatives():
                length = gh if isinstance(gh, float) else gh.detach()
                x, solved = self._iterate(t.detach(), length, base.detach(), unit, length * guess.detach())
                x = torch.where(solved.unsqueeze(1), x, torch.nan)
            if self._field.taped:
                x = self._differentiable(t, gh, base, unit, x / unit)
        divisor = gh if isinstance(gh, float) else torch.where(gh == 0, 1.0, gh)  # a system that rests has h = 0
        return base + x, x / divisor

    def _iterate(self, t: Tensor, gh: Length, base: Tensor, unit: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """x = gh f(t, base + x) near x, and which systems have converged."""
        count = max(x.shape[1], 1) ** 0.5
        active = torch.ones_like(self._eta, dtype=torch.bool)
        failed, before, renewals, left = ~active, torch.full_like(self._eta, torch.nan), 0, _ITERATIONS
        rounding = _ROUNDING * torch.finfo(x.dtype).eps
        self._eta = self._eta.clamp(min=_TRUSTED)
        while left:
            left -= 1
            assert self._factors is not None
            change = self._factors.solve(gh * self._field.evaluate(t, base + x, self._rows) - x)
            size = row_norm(change / unit) / count
            rate = size / before
            self._eta = torch.where(active & (rate < 1), rate / (1 - rate), self._eta)
            finished = self._eta * size <= self.options.stage_tol
            finished = finished & ~(rate >= 1) | (size <= rounding * row_norm((base + x) / unit) / count)
            worse = active & ~finished & ~(rate < 1) & ~(rate.isnan() & size.isfinite())
            hopeless = active & ~finished & (rate**left * self._eta * size > self.options.stage_tol)
            x = torch.where((active & ~worse).unsqueeze(1), x + change, x)
            active = active & ~finished
            before = torch.where(worse, torch.nan, size)
            (going, _), (stuck, _), (slow, _) = host_flags(active, worse | hopeless, active & (rate > _SLOW))
            self._renew |= slow
            if not going:
                break
            if not stuck:
                continue
            if renewals == _RENEWALS:
                failed = failed | worse
                active = active & ~worse
                continue
            self._linearise(t, base + x)
            self._factorise(gh)
            before, renewals, left = torch.full_like(before, torch.nan), renewals + 1, _ITERATIONS
            self._eta = torch.ones_like(self._eta)
        return x, ~(failed | active)

    def relaxed(self, x: Tensor, t: Tensor, y: Tensor, gh: Length) -> Tensor:
        """As `Stepper.relaxed`."""
        if self._factors is not None:
            return self._factors.solve(x)
        _, vjp = pullback(lambda point: (self._field.evaluate(t, point[0], self._rows),), (y.detach(),))
        solution = GMRES(tol=_ROUGHLY)(from_pullback(lambda u: u - gh * vjp((u,))[0], y), x)
        self._field.calls += solution.nfe
        return solution.value

    def _differentiable(self, t: Tensor, gh: Length, base: Tensor, unit: Tensor, x: Tensor) -> Tensor:
        """The increment, solved for, as a function of all that its equation reads."""
        f, rows = self._field.f, self._rows

        def condition(x: Tensor, t: Tensor, gh: Length, base: Tensor) -> Tensor:
            return x - gh * f(t, base + unit * x, rows) / unit

        implicit = ImplicitFunction(
            solve=lambda *args: x, conditions=condition, linear_solver=linear_solver(self.options, x), batch_dims=1,
            on_failure="ignore",
        )  # fmt: skip
        self._field.calls += 1
        differentiable: Tensor = implicit.differentiable(x, t, gh, base)
        return unit * differentiable

    def _by_newton_krylov(self, t: Tensor, gh: Length, base: Tensor, unit: Tensor, guess: Tensor) -> Tensor:
        f, rows, size = self._field.f, self._rows, base.shape[1]

        def condition(x: Tensor, t: Tensor, gh: Length, base: Tensor) -> Tensor:
            return x - gh * f(t, base + unit * x, rows) / unit

        x, solution = root(
            condition, (gh * guess / unit).detach(), t, gh, base,
            solver=NewtonKrylov(tol=self.options.stage_tol * size**0.5, stop="abs", max_steps=10),
            adjoint=Implicit(linear_solver(self.options, base)),
            batch_dims=1, on_failure="ignore", return_solution=True,
        )  # fmt: skip
        self._field.calls += solution.nfe
        return unit * torch.where(solution.converged.unsqueeze(1), x, torch.nan)

    def _known(self, rows: Tensor | None, count: int) -> bool:
        if self._matrix is None:
            return False
        if rows is None:  # all systems, where those before may have been some of them
            return len(self._matrix) == count
        return not len(rows) or len(self._matrix) > int(rows.max())

    def _linearise(self, t: Tensor, y: Tensor) -> None:
        matrix, rows = jacobian(self._field, t, y, self._rows), self._rows
        if rows is None:
            self._matrix = matrix
            return
        if not self._known(rows, len(y)):  # a system without a Jacobian gets one, as it does not converge
            self._matrix = matrix.new_full((int(rows.max()) + 1, *matrix.shape[1:]), torch.nan)
        assert self._matrix is not None
        self._matrix = self._matrix.index_copy(0, rows, matrix)

    def _factorise(self, gh: Length) -> None:
        assert self._matrix is not None
        self._factors = Factors(self._matrix if self._rows is None else self._matrix[self._rows], gh)


def linear_solver(solver: DiagonallyImplicit, y: Tensor) -> LinearSolver:
    """For derivatives of the stages at states like y."""
    return Dense() if y.shape[1] <= solver.dense_up_to else GMRES()
