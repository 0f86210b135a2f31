"""One step of a Runge-Kutta method, from its tableau."""

from __future__ import annotations

from torch import Tensor

from ..modes import in_transform
from .compiled_step import compiled_step
from .counted_field import CountedField, Field
from .rosenbrock import Rosenbrock
from .solvers import DiagonallyImplicit, ODESolver, is_splitting
from .splitting import splitting_step
from .stage_values import Buffer, Length, Stages, Tape, coefficients
from .stages import StageSolver
from .stiff_tableaus import RosenbrockTableau

FIRST_STAGES = 2  # from which a first step is judged
_GAMMA = 0.25


class Stepper(CountedField):
    """Takes steps of one method for one field f; arguments as for `CountedField`."""

    def __init__(self, solver: ODESolver, f: Field, taped: bool) -> None:
        super().__init__(solver, f, taped)
        self._rows: Tensor | None = None
        self._stage_solver = StageSolver(self) if isinstance(solver, DiagonallyImplicit) else None
        self._rosenbrock = Rosenbrock(self) if isinstance(self.tableau, RosenbrockTableau) else None
        self._compiles = getattr(solver, "compile", False) and not taped

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
        if is_splitting(self.solver):
            stages = self._empty(y)
            return splitting_step(self, stages, t, h, y, first, rows), stages
        if self._compiles and known is None and rows is None and not in_transform():
            buffer = Buffer(len(tableau.a), y)
            length = y.new_full((), h) if isinstance(h, float) else h  # a number would be part of the graph
            new, values = compiled_step()(self.f, tableau, t, length, y, first, self.limits)
            buffer.put_first(values)
            self.calls += tableau.stages - (first is not None)
            return new, buffer
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
