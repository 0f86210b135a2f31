"""The derivative of a least-squares solution without second derivatives of the residual."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..adjoints import EquationAdjoint
from ..modes import needs_derivative, no_derivatives
from ..problem import Problem
from ..pytree import Ravel
from ..solution import Solution


@dataclasses.dataclass(frozen=True)
class GaussNewtonStep(EquationAdjoint):
    """For `least_squares`: the derivative of one step of Gauss and Newton from the solution, its matrix held fixed.

        y = y* - (J'WJ)^+ grad(y*, args),    dy/dargs = -(J'WJ)^+ d(grad)/dargs

    The Hessian is replaced by J'WJ, which is always semidefinite and needs no second derivatives in y. It is the exact
    derivative where the residual vanishes at the solution, and else off by the part sum_i r_i d2r_i/dy2 of the
    Hessian. Derivatives of higher order are those of this step, in which y* and the matrix are constants.

    Source: Nocedal, Wright, "Numerical Optimization", 2006, section 10.3.
    """

    problems = ("argmin",)

    def apply(self, problem: Problem) -> tuple[Any, Solution]:
        """See `EquationAdjoint`."""
        model = getattr(problem, "model", None)
        if model is None:
            raise TypeError(f"GaussNewtonStep is an adjoint of least_squares, not of {problem.name}")
        solution = problem.solve()
        if not needs_derivative():
            return solution.value, solution
        ravel = Ravel(solution.value, problem.batch_dims)
        with no_derivatives():
            point = ravel.flatten(solution.value).detach()
            J = model(*problem.args).jacobian(point)
            inverse = torch.linalg.pinv(J.mT @ J, hermitian=True)
        slope = ravel.flatten(problem.conditions(ravel.unflatten(point), *problem.args))
        step = (inverse @ slope.unsqueeze(-1)).squeeze(-1)
        return ravel.unflatten(point - step), solution
