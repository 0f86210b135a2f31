"""One step of a Runge-Kutta method, from its tableau. The stage values are kept in a buffer, or on the tape."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .rosenbrock import Rosenbrock
from .solvers import DiagonallyImplicit, OdeSolver
from .stages import StageSolver, guesses
from .stiff_tableaus import RosenbrockTableau
from .tableaus import Tableau

Field = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (t, y, rows) -> dy/dt on (systems, unknowns); rows: which
Length = float | Tensor  # of a step: one number, or (systems, 1)
FIRST_STAGES = 2  # from which a first step is judged
_GAMMA = 0.25


class Coefficients:
    """A tableau as tensors."""

    def __init__(self, tableau: Tableau, like: Tensor) -> None:
        def tensor(values: Any) -> Tensor:
            return torch.tensor(values, dtype=like.dtype, device=like.device)

        count = len(tableau.a)
        self.a = [tensor(row[:i]) for i, row in enumerate(tableau.a)]
        self.b = tensor(tableau.b)
        self.b_list = [*tableau.b, *[0.0] * (count - len(tableau.b))]
        # Column j, from the next row on: what later stages took from stage j.
        padded = [[*row[:i], *[0.0] * (count - min(i, len(row)))] for i, row in enumerate(tableau.a)]
        self.columns = [tensor([padded[i][j] for i in range(j + 1, count)]) for j in range(count)]
        self.guess = [tensor(row) for row in guesses(tableau)] if any(map(tableau.diagonal, range(count))) else []
        self.couplings = [tensor(row) for row in getattr(tableau, "couplings", ())]
        self.error, self.error3, self.dense = tensor(tableau.error), tensor(tableau.error3), tensor(tableau.dense)


@functools.lru_cache(maxsize=64)
def _coefficients(tableau: Tableau, dtype: torch.dtype, device: torch.device) -> Coefficients:
    with torch.inference_mode(False):
        return Coefficients(tableau, torch.empty((), dtype=dtype, device=device))


def coefficients(tableau: Tableau, like: Tensor) -> Coefficients:
    """The tableau in the dtype and on the device of a tensor."""
    return _coefficients(tableau, like.dtype, like.device)


class Buffer:
    """Stage values in one tensor, stage by stage, so that a weighted sum of them is one product. Keeps no tape."""

    def __init__(self, count: int, like: Tensor) -> None:
        self.shape, self.filled = like.shape, 0
        self._k = like.new_empty(count, like.numel())

    def put(self, i: int, value: Tensor) -> None:
        """Keep k_i."""
        self._k[i] = value.reshape(-1)
        self.filled = i + 1

    def get(self, i: int) -> Tensor:
        """k_i, a view."""
        return self._k[i].view(self.shape)

    def rows(self, count: int) -> Tensor:
        """The first stage values, (count, systems, unknowns), a view."""
        return self._k[:count].view(count, *self.shape)

    def sum(self, weights: Tensor) -> Tensor:
        """sum_j w_j k_j."""
        return torch.mv(self._k[: len(weights)].T, weights).view(self.shape)

    def advance(self, y: Tensor, h: Length, weights: Tensor) -> Tensor:
        """y + h sum_j w_j k_j."""
        if isinstance(h, float):
            k = self._k[: len(weights)]
            return torch.addmv(y.reshape(-1), k.T, weights, alpha=h).view(self.shape)
        return torch.addcmul(y, h, self.sum(weights))

    def back(self, i: int, column: Tensor, u: Tensor, b: float) -> Tensor:
        """b u + sum_(j > i) a_ji mu_j, where the buffer holds mu of the later stages."""
        later = self._k[i + 1 : i + 1 + len(column)]
        return torch.addmv(u.reshape(-1), later.T, column, beta=b).view(self.shape)

    def total(self, u: Tensor) -> Tensor:
        """u plus the sum of all that is kept."""
        return u + self._k.sum(dim=0).view(self.shape)


class Tape:
    """Stage values in a list, summed by operations that autograd and `torch.func` can see."""

    def __init__(self, count: int, like: Tensor) -> None:
        self.shape = like.shape
        self._k: list[Tensor] = []

    @property
    def filled(self) -> int:
        """Stages that are known."""
        return len(self._k)

    def put(self, i: int, value: Tensor) -> None:
        """Keep k_i."""
        self._k.append(value)

    def get(self, i: int) -> Tensor:
        """k_i."""
        return self._k[i]

    def rows(self, count: int) -> Tensor:
        """The first stage values, (count, systems, unknowns)."""
        return torch.stack(self._k[:count])

    def sum(self, weights: Tensor) -> Tensor:
        """sum_j w_j k_j."""
        return (weights @ self.rows(len(weights)).flatten(1)).view(self.shape)

    def advance(self, y: Tensor, h: Length, weights: Tensor) -> Tensor:
        """y + h sum_j w_j k_j."""
        if isinstance(h, float):
            return torch.add(y, self.sum(weights), alpha=h)
        return torch.addcmul(y, h, self.sum(weights))


Stages = Buffer | Tape


class Stepper:
    """Takes steps of one method for one field f.

    Args:
        solver: the method.
        f: the field.
        taped: keep the stages on the tape.
    """

    def __init__(self, solver: OdeSolver, f: Field, taped: bool) -> None:
        self.solver, self.tableau, self.f = solver, solver.tableau, f
        self.taped = taped
        self.calls = 0  # of f; a product with its Jacobian counts as one
        self.limits: tuple[Tensor, Tensor] | None = None  # of the times at which f is asked for, see `Times.limits`
        self.replays = False  # steps of an earlier solve, in any order: a Jacobian that is kept would be of no use
        self._rows: Tensor | None = None
        self._stage_solver = StageSolver(self) if isinstance(solver, DiagonallyImplicit) else None
        self._rosenbrock = Rosenbrock(self) if isinstance(self.tableau, RosenbrockTableau) else None

    def evaluate(self, t: Tensor, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """f(t, y) of the systems `rows`, counted."""
        self.calls += 1
        return self.f(self.within(t), y, rows)

    def within(self, t: Tensor) -> Tensor:
        """A time, moved into the limits."""
        return t if self.limits is None else torch.minimum(torch.maximum(t, self.limits[0]), self.limits[1])

    def begin(self, t: Tensor, h: Length, y: Tensor, first: Tensor | None, rows: Tensor | None = None) -> Stages:
        """The first `FIRST_STAGES` stages of a step; `first`: f(t, y), if known; `rows`: the systems that y holds."""
        stages = self._start(t, y, first, rows)
        self._extend(stages, t, h, y, 1, FIRST_STAGES)
        return stages

    def step(
        self,
        t: Tensor,
        h: Length,
        y: Tensor,
        first: Tensor | None,
        rows: Tensor | None = None,
        known: Stages | None = None,
    ) -> tuple[Tensor, Stages]:
        """y(t + h) and the stages, of which `begin` may have computed some (`known`)."""
        tableau = self.tableau
        if self._rosenbrock is not None:
            stages = self._empty(y)
            return self._rosenbrock.step(stages, coefficients(tableau, y), self.within(t), h, y, rows), stages
        stages = self._start(t, y, first, rows) if known is None else known
        at = self._extend(stages, t, h, y, 1 if known is None else FIRST_STAGES, tableau.stages)
        if tableau.last_is_next:  # the last stage stands at the end of the step
            return at, stages
        return stages.advance(y, h, coefficients(tableau, y).b), stages

    def extend(self, stages: Stages, t: Tensor, h: Length, y: Tensor) -> None:
        """Evaluate the stages that dense output alone needs, of the step just taken, where they are not known yet."""
        if stages.filled < len(self.tableau.a):
            self._extend(stages, t, h, y, self.tableau.stages, len(self.tableau.a))

    @property
    def gamma(self) -> float:
        """The diagonal of an implicit method; a number like it of an explicit one."""
        if isinstance(self.tableau, RosenbrockTableau):
            return self.tableau.gamma
        return _GAMMA if self._stage_solver is None else self.tableau.diagonal(1)

    def relaxed(self, x: Tensor, t: Tensor, y: Tensor, gh: Length) -> Tensor:
        """(I - gamma h J)^-1 x with the J of the step just taken, or, for large systems, that of (t, y)."""
        if self._rosenbrock is not None:
            assert self._rosenbrock.factors is not None
            return self._rosenbrock.factors.solve(x)
        return x if self._stage_solver is None else self._stage_solver.relaxed(x, t, y, gh)

    def _start(self, t: Tensor, y: Tensor, first: Tensor | None, rows: Tensor | None) -> Stages:
        self._rows = rows
        stages = self._empty(y)
        stages.put(0, self.evaluate(t, y, rows) if first is None else first)
        return stages

    def _empty(self, y: Tensor) -> Stages:
        return (Tape if self.taped else Buffer)(len(self.tableau.a), y)

    def _extend(self, stages: Stages, t: Tensor, h: Length, y: Tensor, begin: int, end: int) -> Tensor:
        at, co = y, coefficients(self.tableau, y)
        length = h if isinstance(h, float) else h.reshape(t.shape)
        if self._stage_solver is not None:
            self._stage_solver.begin(t, h, y, self._rows)
        for i in range(begin, end):
            at = stages.advance(y, h, co.a[i])
            time = self.within(t + self.tableau.c[i] * length)
            if diagonal := self.tableau.diagonal(i):
                assert self._stage_solver is not None
                at, k = self._stage_solver.solve(time, diagonal * h, at, y, stages.sum(co.guess[i]))
            else:
                k = self.evaluate(time, at, self._rows)
            stages.put(i, k)
        return at


def dense_weights(co: Coefficients, theta: Tensor) -> Tensor:
    """Weights of the stages at fractions theta (points,) of a step: (points, stages)."""
    powers = torch.arange(1, co.dense.shape[1] + 1, dtype=theta.dtype, device=theta.device)
    return (theta.unsqueeze(1) ** powers) @ co.dense.T.to(theta.dtype)
