"""The problems of Moré, Garbow, Hillstrom, 1981, at the defaults: who reaches a published minimum, and who says so."""

import math

import pytest
import torch

from deqzoo.implicit import LBFGS, Broyden, Newton, NewtonCG, NewtonKrylov, Status, TrustRegion, argmin, root
from tests.implicit.solvers.more_garbow_hillstrom import PROBLEMS, SYSTEMS

F64 = torch.float64
MINIMIZERS = {"lbfgs": LBFGS, "newton_cg": NewtonCG, "trust_region": TrustRegion}
ROOT_SOLVERS = {"newton": Newton, "newton_krylov": NewtonKrylov, "broyden": Broyden}


def published(value, minima):
    """Within 1e-6, relative, or absolute where the minimum is zero."""
    return any(abs(value - minimum) <= 1e-6 * (minimum or 1.0) for minimum in minima)


def minimise(name, solver):
    """The solution, and whether its objective is a published minimum."""
    problem = PROBLEMS[name]
    _, solution = argmin(problem.objective, problem.x0, solver=solver, return_solution=True, on_failure="ignore")
    return solution, published(problem.objective(solution.value).item(), problem.minima)


def solve(name, solver):
    """The solution, and whether its largest residual is below 1e-8."""
    problem = SYSTEMS[name]
    _, solution = root(problem.residuals, problem.x0, solver=solver, return_solution=True, on_failure="ignore")
    return solution, problem.residuals(solution.value).abs().max().item() <= 1e-8


# Who reaches a published minimum at its defaults; the others end elsewhere, or out of steps.
MINIMA = dict.fromkeys(PROBLEMS, tuple(MINIMIZERS)) | {
    "Meyer": ("lbfgs", "trust_region"),
    "Biggs EXP6": ("lbfgs", "newton_cg"),
    "Watson, 12": ("newton_cg", "trust_region"),
}
# Who finds the root; the others (all but Newton's take the Jacobian for near I) say that they do not.
ROOTS = dict.fromkeys(SYSTEMS, ("newton", "newton_krylov")) | {
    "Rosenbrock": tuple(ROOT_SOLVERS),
    "Powell badly scaled": tuple(ROOT_SOLVERS),
    "Brown almost-linear": tuple(ROOT_SOLVERS),
    "discrete boundary value": tuple(ROOT_SOLVERS),
    "discrete integral equation": tuple(ROOT_SOLVERS),
    "linear, full rank": tuple(ROOT_SOLVERS),
    "Brown almost-linear, 40": ("newton_krylov",),  # Newton ends where J is singular
    "Watson, 9": ("newton_krylov",),
}


def every_pair(problems, solvers, slow):
    """Each problem with each solver; some are marked as slow."""
    return [
        pytest.param(name, solver, marks=[pytest.mark.slow] if slow(name, solver) else [], id=f"{name}-{solver}")
        for name in problems
        for solver in solvers
    ]


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_functions_are_those_of_the_paper(name):
    """Each at its start; the minima are tested by the solvers."""
    problem = PROBLEMS[name]
    assert math.isclose(problem.objective(problem.x0).item(), problem.at_start, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("name", "solver"),
    every_pair(PROBLEMS, MINIMIZERS, lambda name, solver: solver != "lbfgs" or name in {"Meyer", "penalty II, 10"}),
)
def test_minimisers(name, solver):
    solution, reached = minimise(name, MINIMIZERS[solver]())
    assert reached == (solver in MINIMA[name])
    objective, x0 = PROBLEMS[name].objective, PROBLEMS[name].x0
    assert objective(solution.value) <= objective(x0)
    if solution.status == Status.CONVERGED:
        assert_stationary(objective, solution.value, x0)


def assert_stationary(objective, y, start):
    """|grad| at ten times the tolerance, by the sizes of the unknowns and of the Hessian, all computed here."""
    slope, hessian = torch.func.grad(objective)(y), torch.func.hessian(objective)(y)
    size = torch.maximum(y.abs(), (y - start).abs())
    scale = torch.linalg.vector_norm(hessian.abs() @ size)
    tol = torch.finfo(F64).eps ** 0.75
    assert slope.norm() <= 10 * tol * torch.maximum(scale, torch.func.grad(objective)(start).norm())


@pytest.mark.parametrize(
    ("name", "solver"), every_pair(SYSTEMS, ROOT_SOLVERS, lambda name, solver: name == "Watson, 9")
)
def test_root_solvers(name, solver):
    solution, reached = solve(name, ROOT_SOLVERS[solver]())
    assert reached == (solver in ROOTS[name])
    assert reached or solution.status != Status.CONVERGED


def test_each_problem_is_solved_by_at_least_one():
    assert all(MINIMA.values())
    assert all(ROOTS.values())
