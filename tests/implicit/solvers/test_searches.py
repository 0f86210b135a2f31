"""What a search promises: no minimum above its start, no root that is none, no work where there is nothing to do."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deqzoo.implicit import (
    LBFGS,
    Anderson,
    Broyden,
    GradientDescent,
    Newton,
    NewtonCG,
    NewtonKrylov,
    Picard,
    Status,
    TrustRegion,
    argmin,
    root,
)
from deqzoo.implicit.root_solvers.trust_region import dogleg, minimise_quadratic
from tests.implicit.solvers.helpers import F64, Recorded, assert_close, matrix_of_norm, randn, symmetric_matrix

MINIMIZERS = {"gradient_descent": GradientDescent, "lbfgs": LBFGS, "newton_cg": NewtonCG, "trust_region": TrustRegion}
ROOT_SOLVERS = {"newton": Newton, "newton_krylov": NewtonKrylov}
NEAR_IDENTITY = {"broyden": Broyden, "anderson": Anderson, "picard": Picard}
every_minimizer = pytest.mark.parametrize("solver", MINIMIZERS.values(), ids=MINIMIZERS.keys())
newtons = pytest.mark.parametrize("solver", ROOT_SOLVERS.values(), ids=ROOT_SOLVERS.keys())
every_root_solver = pytest.mark.parametrize(
    "solver", [*ROOT_SOLVERS.values(), *NEAR_IDENTITY.values()], ids=[*ROOT_SOLVERS, *NEAR_IDENTITY]
)


def minimise(objective, start, **options):
    return argmin(objective, start, return_solution=True, on_failure="ignore", **options)[1]


def find_root(f, start, *args, **options):
    return root(f, start, *args, return_solution=True, on_failure="ignore", **options)[1]


# --- a minimiser never ends above its start ---


@every_minimizer
@settings(max_examples=10)
@given(centre=st.floats(-2, 2), width=st.floats(0.02, 3.0), start=st.floats(-3, 3), rim=st.floats(0, 2))
def test_of_a_well_in_a_plain_no_point_above_the_start_is_returned(solver, centre, width, start, rim):
    """The gradient vanishes far out too, and there may lie a rim between."""

    def objective(y):
        u = ((y - centre) / width) ** 2
        return (-torch.exp(-u) + rim * u * torch.exp(-u / 4)).sum()

    y0 = torch.tensor([start], dtype=F64)
    solution = minimise(objective, y0, solver=solver(max_steps=200))
    assert objective(solution.value) <= objective(y0)


@every_minimizer
def test_the_well_that_the_start_lies_in_is_found(solver):
    solution = minimise(
        lambda y: -torch.exp(-(((y + 2) / 0.04) ** 2)).sum(), torch.tensor([-1.98], dtype=F64), solver=solver()
    )
    assert solution.converged
    assert_close(solution.value, torch.tensor([-2.0]), 1e-6)


@every_minimizer
@pytest.mark.parametrize(
    "objective",
    [
        lambda y: torch.log(y).sum(),
        lambda y: -(y**2).sum(),
        lambda y: -(y**4).sum() + y.sum(),
        lambda y: -torch.exp(y).sum(),
        lambda y: y.sum(),
        lambda y: -y.sum() + 1e6,
        lambda y: torch.sqrt(-y).sum(),
        lambda y: (math.nan * y).sum(),
        lambda y: (y / 0).sum(),
    ],
)
def test_without_a_minimum_nothing_converges_and_the_search_ends_soon(solver, objective):
    start = torch.tensor([1.0, 0.7], dtype=F64)
    solution = minimise(objective, start, solver=solver())
    assert solution.status in (Status.DIVERGED, Status.STALLED, Status.MAX_STEPS)
    assert solution.nfe < 1000
    assert torch.isfinite(solution.value).all()


@every_minimizer
@pytest.mark.parametrize("far", [40.0, -60.0])
def test_a_start_where_the_gradient_is_huge_loosens_nothing(solver, far):
    """cosh: 1e-12 of the first gradient would be 1e5 and more."""
    solution = minimise(
        lambda y: torch.cosh(y - 1).sum(), torch.tensor([far], dtype=F64), solver=solver(max_steps=3000)
    )
    assert not solution.converged or abs(solution.value.item() - 1) < 1e-8
    assert solution.converged or solver is GradientDescent


# --- a start at the answer ---

OBJECTIVES = {
    "quartic": lambda y: ((y - 2) ** 4).sum() + (y**2).sum() / 3,
    "logistic": lambda y: torch.nn.functional.softplus(randn(30, 4, seed=1) @ y).sum() + (y**2).sum(),
    "rosenbrock": lambda y: ((1 - y[:-1]) ** 2 + 100 * (y[1:] - y[:-1] ** 2) ** 2).sum(),
    "with an offset": lambda y: torch.cosh(y - torch.arange(4)).sum() + 1e3,
    "no residual": lambda y: ((y - torch.tensor([0.3, 1.7, -0.2, 5.0], dtype=F64)) ** 2).sum(),
}


@every_minimizer
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e10])
def test_a_minimiser_is_done_at_once_at_its_own_result(solver, name, scale):
    if solver is GradientDescent and name == "rosenbrock":
        pytest.skip("it takes 20,000 steps to find the start")
    objective = lambda y: scale * OBJECTIVES[name](y)  # noqa: E731
    cold = minimise(objective, torch.full((4,), 0.5, dtype=F64), solver=solver())
    assert cold.converged
    warm = minimise(objective, cold.value, solver=solver())
    assert warm.converged
    assert warm.nfe <= 5


@every_root_solver
@pytest.mark.parametrize("n", [1, 3, 12])
def test_a_root_solver_is_done_at_once_at_its_own_result(solver, n):
    matrix, b = matrix_of_norm(n, 0.4, seed=n), 1 + randn(n, seed=2)
    f = lambda y: y + torch.tanh(matrix @ y) - b  # noqa: E731
    cold = find_root(f, torch.zeros(n, dtype=F64), solver=solver())
    assert cold.converged
    warm = find_root(f, cold.value, solver=solver())
    assert warm.converged
    assert warm.nfe <= 5


@newtons
@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_a_start_near_a_root_is_none_for_its_small_residual(solver, scale):
    solution = find_root(lambda y: scale * (y**2 - 3), torch.tensor([1.5, 2.0], dtype=F64), solver=solver())
    assert solution.converged
    assert_close(solution.value, torch.full((2,), 3.0, dtype=F64).sqrt(), 1e-10)


def test_methods_that_take_the_jacobian_for_near_one_are_not_deceived_by_a_small_one():
    solution = find_root(lambda y: 1e-14 * (y - 1), torch.tensor([1.5], dtype=F64), solver=Picard(max_steps=20))
    assert not solution.converged


# --- unknowns and equations of different scale ---


@every_root_solver
@settings(max_examples=12)
@given(big=st.floats(-8, 8), small=st.floats(-8, 8), factor=st.floats(-6, 6), seed=st.integers(0, 1000))
@example(big=0.0, small=0.0, factor=6.0, seed=473)  # along a bent valley of the larger equation
def test_converged_means_converged_in_each_unknown(solver, big, small, factor, seed):
    scales = 10 ** torch.tensor([big, small], dtype=F64)
    factors = 10 ** torch.tensor([0.0, factor], dtype=F64)
    start = scales * (1 + 0.3 * randn(2, seed=seed))
    start[0] = scales[0]  # one unknown is right from the start

    def f(y):
        u = y / scales
        return factors * (u**2 - 1 + 0.1 * (u - 1).flip(0))

    solution = find_root(f, start, solver=solver())
    if solution.converged:
        assert (f(solution.value) / factors).abs().max() < 1e-6
    assert solution.converged or solver is not Newton


@settings(max_examples=12)
@given(exponents=st.tuples(st.integers(-30, 30), st.integers(-30, 30)), seed=st.integers(0, 1000))
def test_no_scale_of_the_equations_changes_the_path_of_newton(exponents, seed):
    factors = 2.0 ** torch.tensor(exponents, dtype=F64)
    f = lambda y: torch.stack([10 * (y[1] - y[0] ** 2), 1 - y[0]])  # Rosenbrock's  # noqa: E731
    start = torch.tensor([-1.2, 1.0], dtype=F64) + randn(2, seed=seed)
    one, other = (find_root(g, start, solver=Newton()) for g in (f, lambda y: factors * f(y)))
    assert one.converged
    assert (one.nfe, int(one.steps)) == (other.nfe, int(other.steps))
    assert_close(one.value, other.value, 1e-12)


@pytest.mark.parametrize("start", [[2.0, 3.0], [10.0, 1.0], [20.0, 10.0]])
def test_newton_comes_back_from_where_an_equation_is_flat(start):
    f = lambda y: torch.stack([torch.tanh(y[0]) - 0.5 + 0.1 * y[1], y[1] ** 3 - 8 + y[0]])  # noqa: E731
    solution = find_root(f, torch.tensor(start, dtype=F64), solver=Newton())
    assert solution.converged
    assert solution.steps <= 20
    assert f(solution.value).abs().max() < 1e-10


@newtons
def test_the_derivative_at_a_root_of_small_and_large_unknowns(solver):
    c = torch.tensor(4e-8, requires_grad=True)
    y = root(
        lambda y, c: torch.stack([y[0] / 3e4 - 1, 50 * (y[1] ** 2 - c)]), torch.tensor([3e4, 0.02]), c, solver=solver()
    )
    assert_close(y[1], torch.tensor(2e-4), 1e-2)
    assert_close(torch.autograd.grad(y[1], c)[0], torch.tensor(2500.0), 1e-2)


@every_minimizer
@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_the_scale_of_an_objective_changes_no_answer(solver, scale):
    matrix, b = symmetric_matrix(torch.logspace(0, 1, 6, dtype=F64)), randn(6, seed=1)
    solution = minimise(lambda y: scale * (0.5 * y @ matrix @ y - b @ y), torch.ones(6, dtype=F64), solver=solver())
    assert solution.converged
    assert_close(solution.value, torch.linalg.solve(matrix, b), 1e-9)


# --- tolerances ---


@newtons
def test_an_absolute_tolerance_is_another_way_to_converge(solver):
    f = lambda y: (y - 1) ** 3  # noqa: E731
    loose = find_root(f, torch.tensor([3.0, 2.0], dtype=F64), solver=solver(atol=1e-3))
    assert loose.converged
    assert 1e-5 < f(loose.value).abs().max() <= 1e-3
    assert LBFGS(rtol=1e-3).tol == 1e-3
    with pytest.raises(ValueError, match="two names"):
        solver(tol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="atol"):
        solver(atol=-1.0)


# --- what is not finite, empty, or one of many ---


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("solver", [*MINIMIZERS.values(), *ROOT_SOLVERS.values(), Broyden, Anderson, Picard])
def test_a_bad_argument_ends_the_solve_at_once_and_changes_no_other(solver, bad):
    good = torch.tensor([[1.0, 2.0], [0.5, 3.0], [-1.0, 0.2]], dtype=F64)
    mixed = torch.cat([good[:1], torch.full((1, 2), bad, dtype=F64), good[1:]])
    keep = torch.tensor([0, 2, 3])

    def run(a):
        if solver in MINIMIZERS.values():
            objective = lambda y, a: (torch.cosh(y - a)).sum(1)  # noqa: E731
            return argmin(objective, torch.zeros_like(a), a, solver=solver(), **options)[1]
        return root(lambda y, a: y + 0.2 * torch.sin(y) - a, torch.zeros_like(a), a, solver=solver(), **options)[1]

    options = {"batch_dims": 1, "return_solution": True, "on_failure": "ignore"}
    alone, together, lost = run(good), run(mixed), run(torch.full((1, 2), bad, dtype=F64))
    assert lost.status.tolist() == [Status.DIVERGED]
    assert lost.nfe <= 5
    assert together.status.tolist() == [0, Status.DIVERGED, 0, 0]
    assert torch.equal(together.value[keep], alone.value)
    assert together.nfe == alone.nfe


@pytest.mark.parametrize("solver", [*MINIMIZERS.values(), *ROOT_SOLVERS.values()])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_no_systems_and_no_unknowns(solver, shape):
    start = torch.zeros(shape, dtype=F64)
    if solver in MINIMIZERS.values():
        solution = solver()(lambda y: (y**2).sum(1), start, batch_dims=1)
    else:
        solution = solver()(lambda y: y**2 - 1, start, batch_dims=1, root=True)
    assert solution.value.shape == shape
    assert solution.converged.all()


@newtons
def test_vmap_gives_each_system_its_own_region(solver):
    def f(y, a):
        return torch.stack([10 * (y[1] - a * y[0] ** 2), 1 - y[0]])

    a, starts = (
        torch.tensor([1.0, 3.0, 0.1], dtype=F64),
        torch.tensor([[-1.2, 1.0], [4.0, -3.0], [0.0, 9.0]], dtype=F64),
    )
    y = torch.func.vmap(lambda s, a: root(f, s, a, solver=solver(), on_failure="ignore"))(starts, a)
    assert_close(y, torch.stack([torch.ones(3, dtype=F64), a], dim=1), 1e-9)


def test_vmap_of_the_trust_region_of_a_minimiser():
    def rosenbrock(y, a):
        return (1 - y[0]) ** 2 + a * (y[1] - y[0] ** 2) ** 2

    a = torch.tensor([1.0, 100.0, 1e4], dtype=F64)
    start = torch.tensor([-1.2, 1.0], dtype=F64)
    y = torch.func.vmap(lambda a: argmin(rosenbrock, start, a, solver=TrustRegion(), on_failure="ignore"))(a)
    assert_close(y, torch.ones(3, 2), 1e-7)


# --- the steps of a trust region ---


@settings(max_examples=40)
@given(
    n=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["any", "definite", "hard"]),
    size=st.floats(-2, 2),
)
def test_the_step_of_a_trust_region_minimises_the_model_within_it(n, seed, kind, size):
    """The conditions of Moré and Sorensen, which hold at the minimiser alone."""
    root_of = randn(n, n, seed=seed)
    hessian = root_of @ root_of.mT if kind == "definite" else root_of + root_of.mT
    slope, radius = randn(n, seed=seed + 1), torch.tensor(10.0**size, dtype=F64)
    values, vectors = torch.linalg.eigh(hessian)
    if kind == "hard":
        slope = slope - (slope @ vectors[:, 0]) * vectors[:, 0]
    step = minimise_quadratic(hessian[None], slope[None], radius[None])[0]
    assert step.norm() <= radius * (1 + 1e-9)
    pull = -(hessian @ step + slope)
    multiplier = (pull @ step) / (step @ step) if step.any() else -values[0].clamp(max=0)
    assert (pull - multiplier * step).norm() <= 1e-6 * (1 + slope.norm() + hessian.norm() * radius)
    assert multiplier >= -1e-7 * hessian.norm()
    assert values[0] + multiplier >= -1e-6 * hessian.norm()
    assert step.norm() >= radius * (1 - 1e-6) or multiplier.abs() <= 1e-6 * hessian.norm()


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 0.99))
def test_the_dogleg_has_the_length_of_the_radius_and_lies_on_its_path(seed, share):
    jacobian, g = randn(3, 3, seed=seed), randn(3, seed=seed + 1)
    newton, downhill = -torch.linalg.solve(jacobian, g), -jacobian.mT @ g
    steepest = downhill * (downhill @ downhill) / (jacobian @ downhill).square().sum()
    radius = share * newton.norm()
    step = dogleg(newton[None], steepest[None], radius[None])[0]
    assert torch.isclose(step.norm(), radius, rtol=1e-8)
    model = lambda s: (g + jacobian @ s).norm()  # noqa: E731
    assert model(step) <= g.norm() * (1 + 1e-12)


def test_newton_needs_no_more_than_its_products_on_an_easy_problem():
    """4 steps from ones to the square roots: start, a look, and a Jacobian of 3 columns and a trial each."""
    f = Recorded(lambda y: y**2 - torch.tensor([1.1, 1.5, 2.0], dtype=F64))
    solution = Newton()(f, torch.ones(3, dtype=F64), root=True)
    assert solution.converged
    assert solution.nfe == f.calls + 3 * int(solution.steps)
    assert solution.steps <= 5
