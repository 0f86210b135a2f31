"""A step of a Rosenbrock method; see `RosenbrockTableau`."""

from __future__ import annotations

from torch import Tensor

from .counted_field import CountedField
from .linearise import Factors, Linearised, linearise
from .solvers import Rodas5P
from .stage_values import Coefficients, Length, Stages
from .stiff_tableaus import RosenbrockTableau


class Rosenbrock:
    """Takes steps; a step that is rejected leaves its Jacobian to the next attempt."""

    def __init__(self, field: CountedField) -> None:
        self._field = field
        self._known: tuple[Tensor, Linearised] | None = None  # of the last attempt
        self.factors: Factors | None = None  # of the last step

    def step(self, stages: Stages, co: Coefficients, t: Tensor, h: Length, y: Tensor, rows: Tensor | None) -> Tensor:
        """y(t + h); fills the stages."""
        field, tableau = self._field, self._field.tableau
        assert isinstance(tableau, RosenbrockTableau)
        at = self._linearise(t, y, rows)
        self.factors = factors = Factors(at.matrix, tableau.gamma * h)
        length = h if isinstance(h, float) else h.reshape(t.shape)
        for i in range(tableau.stages):
            value = at.value
            if i:
                value = field.evaluate(t + tableau.c[i] * length, stages.advance(y, h, co.a[i]), rows)
                value = value + stages.sum(co.couplings[i])
            if tableau.slopes[i]:
                value = value + tableau.slopes[i] * h * at.slope
            stages.put(i, factors.solve(tableau.gamma * value))
        return stages.advance(y, h, co.b)

    def _linearise(self, t: Tensor, y: Tensor, rows: Tensor | None) -> Linearised:
        solver = self._field.solver
        assert isinstance(solver, Rodas5P)
        if y.shape[1] > solver.most_unknowns:
            raise ValueError(
                f"{type(solver).__name__} writes out a Jacobian of {y.shape[1]} unknowns per system, more than "
                f"most_unknowns={solver.most_unknowns}: use Kvaerno5(), which does without for large systems, or "
                "batch_dims=1 where the samples do not depend on each other"
            )
        if self._known is None or self._known[0] is not y:
            self._known = None
            self._known = y, linearise(self._field, t, y, rows)
        return self._known[1]
