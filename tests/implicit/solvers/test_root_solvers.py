"""Roots with known answers: Newton's order, line search from afar, singular Jacobians, batches."""

import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deqzoo.implicit import Anderson, Broyden, GradientDescent, Newton, NewtonKrylov, Picard, Status, root
from tests.implicit.solvers.helpers import DTYPES, F64, Recorded, assert_close, matrix_of_norm, randn

newtons = pytest.mark.parametrize("solver", [Newton, NewtonKrylov], ids=["newton", "newton_krylov"])
near_identity = pytest.mark.parametrize("solver", [Picard, Anderson, Broyden], ids=["picard", "anderson", "broyden"])


def rosenbrock(y):
    """Its root is (1, 1); far from it Newton's full steps overshoot."""
    return torch.stack([1 - y[..., 0], 10 * (y[..., 1] - y[..., 0] ** 2)], dim=-1)


def powell(y):
    """Powell's badly scaled function: the root is about (1.098e-5, 9.106)."""
    return torch.stack([1e4 * y[0] * y[1] - 1, torch.exp(-y[0]) + torch.exp(-y[1]) - 1.0001])


@newtons
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("f", "start", "answer"),
    [
        (lambda y: y**3 - 8, [5.0], [2.0]),
        (lambda y: torch.cos(y) - y, [1.0], [0.7390851332151607]),
        (lambda y: torch.exp(y) - 3, [0.0, 2.0], [math.log(3)] * 2),
        (rosenbrock, [-1.2, 1.0], [1.0, 1.0]),
        (lambda y: torch.stack([y[0] ** 2 + y[1] ** 2 - 4, y[0] - y[1]]), [3.0, 1.0], [math.sqrt(2)] * 2),
    ],
    ids=["cube root", "cosine", "log", "rosenbrock", "circle"],
)
def test_known_roots(solver, dtype, f, start, answer):
    solution = solver()(f, torch.tensor(start, dtype=dtype), root=True)
    assert solution.converged
    assert_close(solution.value, torch.tensor(answer, dtype=F64), 20 * torch.finfo(dtype).eps ** 0.75)


def test_newton_converges_quadratically():
    """The digits double: log of the error at least doubles in each of the last steps."""
    f = Recorded(lambda y: y**3 - 8)
    solution = Newton()(f, torch.tensor([2.5], dtype=F64), root=True)
    assert solution.steps <= 6
    errors = [abs(y.item() - 2) for y in f.points[::2]]
    errors = [e for e in errors if 1e-13 < e < 0.2]
    assert len(errors) >= 2
    for before, after in itertools.pairwise(errors):
        assert after < 2 * before**2


@newtons
@pytest.mark.parametrize("start", [1.5, 10.0, -100.0, 1e4])
def test_the_line_search_brings_arctan_home_from_afar(solver, start):
    """The full step diverges beyond 1.39; from 1e4 the first one must be cut back by 1e4."""
    solution = solver(max_steps=500)(torch.atan, torch.tensor([start], dtype=F64), root=True)
    assert solution.converged
    assert solution.value.abs().item() < 1e-9


@newtons
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-18, 1e-6, 1e12])
def test_the_unit_of_the_equations_does_not_matter(solver, dtype, scale):
    solution = solver()(lambda y: scale * (y**3 - 8), torch.tensor([5.0, 1.0], dtype=dtype), root=True)
    assert solution.converged
    assert_close(solution.value, torch.full((2,), 2.0), 100 * torch.finfo(dtype).eps ** 0.75)


@newtons
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_unit_of_the_unknown_does_not_matter(solver, scale):
    start = scale * torch.tensor([5.0, 1.0], dtype=F64)
    solution = solver()(lambda y: (y / scale) ** 3 - 8, start, root=True)
    assert solution.converged
    assert_close(solution.value / scale, torch.full((2,), 2.0), 1e-10)


@newtons
def test_a_badly_scaled_system_is_solved(solver):
    solution = solver(max_steps=500)(powell, torch.tensor([0.0, 1.0], dtype=F64), root=True)
    assert solution.converged
    assert_close(solution.value[1], torch.tensor(9.106146739866, dtype=F64), 1e-6)
    assert_close(solution.value[0], torch.tensor(1.0981593297e-5, dtype=F64), 1e-6)


@newtons
def test_a_trial_outside_the_domain_is_cut_back(solver):
    """From 5 the full step of log y - 0 lands at -3, where the logarithm is NaN."""
    solution = solver()(torch.log, torch.tensor([5.0], dtype=F64), root=True)
    assert solution.converged
    assert_close(solution.value, torch.ones(1), 1e-10)


@newtons
def test_a_singular_jacobian_at_the_start_is_left_behind(solver):
    """y^2 - 1 at 0: no Newton direction; the residual itself is the step."""
    solution = solver()(lambda y: y**2 - 1, torch.zeros(1, dtype=F64), root=True)
    assert solution.converged
    assert_close(solution.value.abs(), torch.ones(1), 1e-10)


@newtons
def test_a_singular_jacobian_everywhere_gives_a_status_and_no_error(solver):
    """Consistent on the line y0 = y1: the second equation repeats the first; and one without any root."""

    def repeated(y):
        e = y[0] - y[1] + 0.1 * (y[0] - y[1]) ** 3 - 2
        return torch.stack([e, e])

    solution = solver()(repeated, torch.zeros(2, dtype=F64), root=True)
    assert torch.isfinite(solution.value).all()
    nothing = solver(max_steps=80)(lambda y: torch.ones_like(y) + 0 * y, torch.zeros(2, dtype=F64), root=True)
    assert not nothing.converged
    assert torch.isfinite(nothing.value).all()


@newtons
def test_a_double_root_is_found_linearly(solver):
    """The Jacobian vanishes at the root itself."""
    solution = solver(max_steps=200)(lambda y: (y - 1) ** 2, torch.tensor([3.0], dtype=F64), root=True)
    assert solution.converged
    assert abs(solution.value.item() - 1) < 1e-5


@newtons
def test_a_function_without_a_root_does_not_converge(solver):
    solution = solver(max_steps=300)(lambda y: y**2 + 1, torch.tensor([3.0], dtype=F64), root=True)
    assert not solution.converged
    assert torch.isfinite(solution.value).all()
    assert solution.residual >= 0.1 - 1e-9  # |F| >= 1 everywhere, and |F(3)| = 10


@newtons
def test_a_nan_in_one_system_leaves_the_others_alone(solver):
    a = torch.tensor([[4.0, 9.0], [math.nan, 1.0], [2.0, 3.0]], dtype=F64)
    solution = solver(max_steps=80)(lambda y, a: y**2 - a, torch.ones(3, 2, dtype=F64), a, batch_dims=1, root=True)
    assert solution.converged.tolist() == [True, False, True]
    assert_close(solution.value[[0, 2]], a[[0, 2]].sqrt(), 1e-10)


@newtons
def test_systems_of_a_batch_backtrack_each_on_its_own(solver):
    """A batch of starts, near and far, of one problem: each as it runs alone."""
    starts = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [5.0, -3.0], [0.0, 0.0]], dtype=F64)
    together = solver()(rosenbrock, starts, batch_dims=1, root=True)
    assert together.converged.all()
    assert_close(together.value, torch.ones(4, 2), 1e-9)
    for i in range(4):
        alone = solver()(rosenbrock, starts[i : i + 1], batch_dims=1, root=True)
        assert alone.steps[0] == together.steps[i]


@settings(max_examples=25)
@given(
    solver=st.sampled_from([Newton, NewtonKrylov, Broyden, Anderson]),
    systems=st.integers(1, 3),
    unknowns=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10_000),
)
# The terms of one equation cancel along one direction: its size is measured along two.
@example(solver=NewtonKrylov, systems=2, unknowns=4, dtype=torch.float32, seed=153)
def test_any_shape_near_the_identity(solver, systems, unknowns, dtype, seed):
    matrix = matrix_of_norm(unknowns, 0.5, seed, dtype)
    b = randn(systems, unknowns, seed=seed + 1, dtype=dtype)

    def f(y, b):
        return y + torch.tanh(y @ matrix.T) - b

    solution = solver()(f, torch.zeros_like(b), b, batch_dims=1, root=True)
    assert solution.converged.all()
    residual = f(solution.value.double() if dtype == F64 else solution.value, b).norm(dim=1)
    assert (residual <= 10 * torch.finfo(dtype).eps ** 0.75 * b.norm(dim=1)).all()


@near_identity
def test_fixed_point_solvers_find_roots_of_a_jacobian_near_the_identity(solver):
    matrix, b = matrix_of_norm(6, 0.5), randn(3, 6, seed=1)
    solution = solver()(lambda y, b: y - y @ matrix.T - b, torch.zeros_like(b), b, batch_dims=1, root=True)
    assert solution.converged.all()
    assert_close(solution.value, torch.linalg.solve(torch.eye(6, dtype=F64) - matrix, b.T).T, 1e-10)


@near_identity
def test_a_root_met_at_the_start_is_accepted(solver):
    """The first residual is round-off, so a fraction of it cannot be asked for."""
    a = torch.tensor([2.0, 3.0, 5.0], dtype=F64)
    start = a.sqrt()
    solution = solver()(lambda y: (y**2 - a) / 4, start, root=True)
    assert solution.converged
    assert_close(solution.value, start, 1e-15)


@newtons
def test_newton_accepts_a_root_met_at_the_start(solver):
    a = torch.tensor([2.0, 3.0, 5.0], dtype=F64)
    solution = solver()(lambda y: y**2 - a, a.sqrt(), root=True)
    assert solution.converged
    assert solution.nfe < 20
    assert_close(solution.value, a.sqrt(), 1e-15)


def test_the_residual_of_newton_is_the_componentwise_backward_error():
    """max_i |f_i| / sum_j |J_ij| max(|y_j|, |y_j - y0_j|), J that of the step before (here constant)."""
    matrix, b = matrix_of_norm(4, 3.0, seed=2) + 2 * torch.eye(4, dtype=F64), randn(4, seed=3)
    start = randn(4, seed=4)
    solution = Newton(max_steps=1, tol=1e-30)(lambda y: matrix @ y - b, start, root=True)
    y = solution.value
    size = matrix.abs() @ torch.maximum(y.abs(), (y - start).abs())
    assert torch.allclose(solution.residual, ((matrix @ y - b).abs() / size).max())


@newtons
def test_the_absolute_residual_is_the_norm(solver):
    def f(y):
        return y**3 + y - 7

    start = torch.tensor([[9.0, 4.0]], dtype=F64)
    absolute = solver(max_steps=3, tol=1e-12, stop="abs")(f, start, batch_dims=1, root=True)
    assert torch.allclose(absolute.residual, f(absolute.value).norm(dim=1))


@newtons
def test_the_step_limit_counts_trials(solver):
    f = Recorded(rosenbrock)
    solution = solver(max_steps=2)(f, torch.tensor([-1.2, 1.0], dtype=F64), root=True)
    assert solution.status == Status.MAX_STEPS
    assert solution.steps == 2


@newtons
def test_pytrees_are_one_coupled_system(solver):
    def f(y):
        return {"a": y["a"] ** 2 + y["b"][1] - 5, "b": (y["b"][0] - y["a"].sum(), y["b"][1] - 1)}

    start = {"a": torch.ones(2, 2, dtype=F64), "b": (torch.zeros((), dtype=F64), torch.zeros((), dtype=F64))}
    solution = solver()(f, start, root=True)
    assert solution.converged
    assert_close(solution.value["a"], torch.full((2, 2), 2.0), 1e-10)
    assert_close(solution.value["b"][0], torch.tensor(8.0), 1e-10)


def test_newton_krylov_solves_a_boundary_value_problem_of_many_unknowns():
    """Bratu's problem, u'' + exp(u) = 0 on [0, 1], u = 0 at both ends: u(1/2) = .1405 on the lower branch."""
    n = 199
    h = 1 / (n + 1)

    def f(u):
        padded = torch.nn.functional.pad(u, (1, 1))
        return (padded[2:] - 2 * u + padded[:-2]) / h**2 + torch.exp(u)

    solution = NewtonKrylov(tol=1e-7, restart=200)(f, torch.zeros(n, dtype=F64), root=True)
    assert solution.converged
    assert abs(solution.value[n // 2].item() - 0.140539) < 1e-4
    assert torch.allclose(solution.value, solution.value.flip(0), atol=1e-6)


def test_a_looser_forcing_term_takes_fewer_products():
    matrix, b = matrix_of_norm(60, 0.95), randn(60, seed=1)

    def f(y):
        return y - torch.tanh(matrix @ y) - b

    loose = NewtonKrylov(forcing=0.3)(f, torch.zeros_like(b), root=True)
    tight = NewtonKrylov(forcing=1e-8)(f, torch.zeros_like(b), root=True)
    assert loose.converged
    assert tight.converged
    assert loose.nfe < tight.nfe
    assert loose.steps > tight.steps


def test_root_differentiates_the_answer_of_any_solver():
    optimize = pytest.importorskip("scipy.optimize")

    def brent(f, y0, a):
        return torch.tensor(optimize.brentq(lambda y: f(torch.tensor(y, dtype=F64), a).item(), 0, 10), dtype=F64)

    a = torch.tensor(8.0, dtype=F64, requires_grad=True)
    for solver in (Newton(), NewtonKrylov(), brent):
        y = root(lambda y, a: y**3 - a, torch.ones((), dtype=F64), a, solver=solver)
        assert_close(y, torch.tensor(2.0), 1e-9)
        assert_close(torch.autograd.grad(y, a)[0], torch.tensor(1 / 12, dtype=F64), 1e-8)


def test_a_minimiser_in_place_of_a_root_solver_is_an_error_that_names_argmin():
    with pytest.raises(TypeError, match="argmin"):
        root(lambda y: y, torch.zeros(1), solver=GradientDescent())


def test_newton_krylov_spends_one_evaluation_a_step_on_the_size_of_the_terms():
    solution = NewtonKrylov()(lambda y: y**3 - 8, torch.tensor(5.0, dtype=torch.float64), root=True)
    # At each point: f at the trial, its Jacobian, one product for one unknown, the terms. And f at the start.
    assert solution.converged
    assert solution.nfe == 4 * solution.steps + 1


@newtons
def test_a_lost_system_costs_nothing(solver):
    """Beside one of NaN, which has no Newton step to shorten, the others take as many products as without it."""
    a = torch.tensor([[2.0, 3.0], [math.nan, 1.0]], dtype=F64)
    both, alone = (
        solver()(lambda z, a: z * z - a, torch.full_like(part, 1.5), part, root=True, batch_dims=1)
        for part in (a, a[:1])
    )
    assert both.status.tolist() == [Status.CONVERGED, Status.DIVERGED]
    assert both.nfe == alone.nfe
