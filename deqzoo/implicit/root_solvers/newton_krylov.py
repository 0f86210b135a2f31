"""Newton's method with GMRES inside."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Evaluate, probe, spread
from ..fixed_point_solvers.search import Search, SearchingSolver
from ..linear_solvers import GMRES
from ..linear_solvers.base import dot, row_norm, safe_divide
from ..operator import LinearOperator, jacobian
from .newton_method import NewtonMethod
from .trust_region import dogleg, dogleg_shares


@dataclasses.dataclass(frozen=True)
class NewtonKrylov(SearchingSolver):
    """Inexact Newton: J(z) s = -g(z) by GMRES on products with J, to a relative residual of `forcing`.

    A step that is longer than the trust region is bent towards the steepest descent of ||g|| (Powell's dogleg). A root
    has converged as with `Newton`; an evaluation close by (in half precision two products with J) estimates the size of
    the terms of each equation. Each product with J or J^T counts as one function evaluation.

    The norms of the inner solve and of the trust region are plain ones: where unknowns differ in size by many orders
    (1e-8, 1, 1e8), it stalls, and says so. Bring them to one size first, or take `Newton`, which scales each by itself.

    Args:
        forcing: relative residual of the inner solve; 1e-2 loses little of Newton's speed and saves most products.
        restart: Krylov vectors kept.

    Source: Knoll, Keyes, "Jacobian-free Newton-Krylov methods", 2004.

    >>> import torch
    >>> NewtonKrylov()(lambda y: y**3 - 8, torch.tensor(5.0, dtype=torch.float64), root=True).value
    tensor(2., dtype=torch.float64)
    """

    forcing: float = 1e-2
    restart: int = 30

    def search(self, evaluate: Evaluate) -> Search:
        """As `SearchingSolver.search`."""
        return _Krylov(evaluate, GMRES(tol=self.forcing, restart=self.restart))


class _Krylov(NewtonMethod):
    operator: LinearOperator | None = None
    turn = 0  # of the directions along which the terms are measured

    def __init__(self, evaluate: Evaluate, linear_solver: GMRES) -> None:
        super().__init__(evaluate)
        self.linear_solver = linear_solver

    def linearise(self) -> None:
        fresh = self.operator is None
        self.operator = jacobian(self.function, self.point)
        self.descent: Tensor | None = None
        keep = self.accepted.unsqueeze(1)
        solution = self.linear_solver(self.operator, torch.where(keep, -self.g, torch.zeros_like(self.g)))
        self.products += solution.nfe
        model = solution.residual * self.norm
        self.newton = solution.value if fresh else torch.where(keep, solution.value, self.newton)
        self.newton_model = model if fresh else torch.where(self.accepted, model, self.newton_model)
        if self.root and not fresh:  # at the start they are known
            # Signs may cancel in a row: half of what was there before stands.
            self.terms = torch.maximum(self._sizes_of_terms(self.operator), self.terms / 2)

    def _sizes_of_terms(self, operator: LinearOperator) -> Tensor:
        """About sum_j |J_ij| size_j for each i, by differences, or in half precision by two products.

        The terms of a row may cancel along one direction: two are taken, by differences in turn.
        """
        along = spread(self.size), self.size
        if self.evaluate.precision.itemsize > 2:
            self.turn = 1 - self.turn
            return probe(self.evaluate, self.point, self.g, along[1 - self.turn])
        self.products += 2
        return torch.maximum(*(operator.mv(v).abs().nan_to_num(posinf=0.0) for v in along))

    def step_within(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        assert self.operator is not None
        if self.descent is None:
            steepest = self.operator.T.mv(-self.g)
            image = self.operator.mv(steepest)
            self.products += 2
            length = safe_divide(dot(steepest, steepest), dot(image, image))
            self.descent, self.image_of_descent = length * steepest, length * image
        of_newton, of_descent = dogleg_shares(self.newton, self.descent, radius)
        # ||g + J s|| from above: what is left of g along the descent, and the share of Newton's step in its own.
        left = row_norm((1 - of_newton) * self.g + of_descent * self.image_of_descent)
        return dogleg(self.newton, self.descent, radius), left + of_newton.squeeze(1) * self.newton_model

    def norm_of(self, step: Tensor) -> Tensor:
        return row_norm(step)
