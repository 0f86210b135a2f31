"""Newton's method with a dense Jacobian."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Evaluate
from ..fixed_point_solvers.search import Search, SearchingSolver
from ..linear_solvers.base import row_norm
from ..operator import jacobian
from ..rows import select
from .newton_method import NewtonMethod
from .trust_region import minimise_quadratic


@dataclasses.dataclass(frozen=True)
class Newton(SearchingSolver):
    """Newton's method, J(z) s = -g(z), z <- z + s, the Jacobian of each system written out, in a trust region.

    A step that is longer than the region, or that a singular J does not give, is replaced by the one within it that
    minimises ||g + J s|| (Levenberg, Marquardt). For a root, g and J are divided by the size of each equation's terms,
    and lengths are measured in D s, D the largest norms of the columns of J so far: no scale of the equations or of the
    unknowns matters. A root has converged when

        |f_i(y)| <= tol sum_j |df_i/dy_j| max(|y_j|, |y_j - y0_j|)    for each i

    that is: y is the root of equations that differ from f by the relative `tol` in each coefficient. J is that of the
    step before. For systems of up to some hundred unknowns.

    Source: Moré, "The Levenberg-Marquardt Algorithm: Implementation and Theory", 1978.

    >>> import torch
    >>> Newton()(lambda y: y**3 - 8, torch.tensor(5.0, dtype=torch.float64), root=True).value
    tensor(2., dtype=torch.float64)
    """

    def search(self, evaluate: Evaluate) -> Search:
        """As `SearchingSolver.search`."""
        return _Dense(evaluate)


class _Dense(NewtonMethod):
    columns: Tensor | None = None

    def begin(self, z: Tensor, g: Tensor, image: Tensor) -> None:
        self.equations = torch.ones_like(g)
        super().begin(z, g, image)

    def merit(self, g: Tensor) -> Tensor:
        return row_norm(g / self.equations)

    def linearise(self) -> None:
        matrix = jacobian(self.function, self.point).to_dense(self.point)
        self.products += self.point.shape[1]
        if self.root:
            self.terms = (matrix.abs() @ self.size.unsqueeze(2)).squeeze(2).nan_to_num(posinf=0.0)
            self._scale_equations()
        scaled = matrix / self.equations.unsqueeze(2)
        norms = torch.linalg.vector_norm(scaled, dim=1).nan_to_num(posinf=0.0)
        self.columns = norms if self.columns is None else torch.maximum(self.columns, norms)
        self.scaling = torch.where(self.columns > 0, self.columns, torch.ones_like(self.columns))
        self.matrix = scaled
        newton, info = torch.linalg.solve_ex(matrix, -self.g.unsqueeze(2))
        self.newton = torch.where((info == 0).unsqueeze(1), newton.squeeze(2), torch.full_like(self.g, torch.nan))
        self.newton_model = self._model(self.newton)

    def _scale_equations(self) -> None:
        """Else a valley of the equation that is largest bends the way, and the others come down in tiny steps."""
        terms = torch.maximum(self.terms, self.g.abs())
        # At most halved from step to step: the merit that judges a step should be about that of the step before.
        terms = terms if self.first else torch.maximum(terms, self.equations / 2)
        terms = torch.where(terms > 0, terms, torch.ones_like(terms))
        self.equations = select(self.accepted, terms, self.equations)
        self.norm = self.merit(self.g)

    def step_within(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        scaled = self.matrix / self.scaling.unsqueeze(1)
        gradient = (scaled.mT @ (self.g / self.equations).unsqueeze(2)).squeeze(2)
        step = minimise_quadratic(scaled.mT @ scaled, gradient, radius) / self.scaling
        return step, self._model(step)

    def norm_of(self, step: Tensor) -> Tensor:
        return row_norm(self.scaling * step)

    def _model(self, step: Tensor) -> Tensor:
        return row_norm(self.g / self.equations + (self.matrix @ step.unsqueeze(2)).squeeze(2))
