"""Newton's method with GMRES inside."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..fixed_point_solvers.base import Evaluate, spread
from ..fixed_point_solvers.search import Search, SearchingSolver
from ..linear_solvers import GMRES
from ..linear_solvers.base import dot, row_norm, safe_divide
from ..operator import LinearOperator, jacobian
from .newton_method import NewtonMethod
from .trust_region import dogleg


@dataclasses.dataclass(frozen=True)
class NewtonKrylov(SearchingSolver):
    """Inexact Newton: J(z) s = -g(z) by GMRES on products with J, to a relative residual of `forcing`.

    A step that is longer than the trust region is bent towards the steepest descent of ||g|| (Powell's dogleg). A root
    has converged as with `Newton`; two products with J estimate the size of the terms of each equation. Each product
    with J or J^T counts as one function evaluation.

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
        if self.root:
            self.products += 2
            size = self.size
            seen = [self.operator.mv(v).abs().nan_to_num(posinf=0.0) for v in (spread(size), size)]
            terms = torch.maximum(*seen)
            # Signs may cancel in a row: half of what was there before stands.
            self.terms = torch.maximum(terms, self.terms / 2)

    def step_within(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        assert self.operator is not None
        if self.descent is None:
            steepest = self.operator.T.mv(-self.g)
            image = self.operator.mv(steepest)
            self.products += 2
            self.descent = safe_divide(dot(steepest, steepest), dot(image, image)) * steepest
        step = dogleg(self.newton, self.descent, radius)
        self.products += 1
        return step, row_norm(self.g + self.operator.mv(step))

    def norm_of(self, step: Tensor) -> Tensor:
        return row_norm(step)
