"""Minimisers on problems with known answers, alone and in batches, and against SciPy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit import (
    GMRES,
    LBFGS,
    GradientDescent,
    Implicit,
    Newton,
    NewtonCG,
    NonConvergenceWarning,
    Status,
    TrustRegion,
    argmin,
    make_solver,
)
from deqzoo.implicit.minimizers.trust_region import _scales
from tests.implicit.solvers.helpers import (
    DTYPES,
    F64,
    HostReads,
    PeakBytes,
    Recorded,
    assert_close,
    randn,
    symmetric_matrix,
)

MINIMIZERS = {"gradient_descent": GradientDescent, "lbfgs": LBFGS, "newton_cg": NewtonCG}
every_minimizer = pytest.mark.parametrize("solver", MINIMIZERS.values(), ids=MINIMIZERS.keys())
fast_minimizers = pytest.mark.parametrize("solver", [LBFGS, NewtonCG], ids=["lbfgs", "newton_cg"])


def rosenbrock(y):
    """Of each row; the minimum is at (1, ..., 1)."""
    a, b = y[..., :-1], y[..., 1:]
    return ((1 - a) ** 2 + 100 * (b - a**2) ** 2).sum(dim=-1)


def quadratic(matrix, b):
    return lambda y: 0.5 * (y * (y @ matrix)).sum(-1) - (b * y).sum(-1)


@fast_minimizers
@pytest.mark.parametrize("n", [2, 5, 10])
def test_rosenbrock(solver, n):
    start = torch.tensor([-1.2, 1.0], dtype=F64).repeat(n // 2 + 1)[:n]
    solution = solver(tol=1e-9)(rosenbrock, start)
    assert solution.converged
    gradient = torch.func.grad(rosenbrock)(solution.value)
    assert gradient.norm() <= 1e-9 * torch.func.grad(rosenbrock)(start).norm() * 1.01
    if n == 2:
        assert_close(solution.value, torch.ones(2), 1e-6)


def test_gradient_descent_with_its_spectral_step_beats_the_best_fixed_step():
    """Condition 100: the best fixed step, 2 / (L + mu), takes 575 evaluations to this tolerance."""
    matrix, b = symmetric_matrix(torch.logspace(0, 2, 12, dtype=F64)), randn(12, seed=1)
    solution = GradientDescent(tol=1e-5)(quadratic(matrix, b), torch.zeros(12, dtype=F64))
    assert solution.converged
    assert solution.nfe < 575
    assert_close(solution.value, torch.linalg.solve(matrix, b), 1e-3)


@every_minimizer
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_well_conditioned_quadratic(solver, dtype):
    matrix = symmetric_matrix(torch.linspace(1, 5, 8, dtype=F64)).to(dtype)
    b = randn(8, seed=1, dtype=dtype)
    solution = solver()(quadratic(matrix, b), torch.zeros(8, dtype=dtype))
    assert solution.converged
    assert_close(solution.value, torch.linalg.solve(matrix.double(), b.double()), 10 * torch.finfo(dtype).eps ** 0.75)


@pytest.mark.parametrize(("condition", "memory", "tol", "budget"), [(1e3, 10, 1e-6, 400), (1e6, 30, 1e-4, 800)])
def test_lbfgs_on_an_ill_conditioned_quadratic(condition, memory, tol, budget):
    """SciPy's L-BFGS-B takes 206 and 267 evaluations to these tolerances."""
    matrix, b = symmetric_matrix(torch.logspace(0, math.log10(condition), 20, dtype=F64)), randn(20, seed=1)
    solution = LBFGS(memory=memory, tol=tol)(quadratic(matrix, b), torch.zeros(20, dtype=F64))
    assert solution.converged
    assert solution.nfe < budget
    assert_close(matrix @ solution.value, b, tol)


@pytest.mark.parametrize("condition", [1e4, 1e6])
def test_newton_cg_on_an_ill_conditioned_quadratic(condition):
    matrix, b = symmetric_matrix(torch.logspace(0, math.log10(condition), 20, dtype=F64)), randn(20, seed=1)
    solution = NewtonCG(tol=1e-8)(quadratic(matrix, b), torch.zeros(20, dtype=F64))
    assert solution.converged
    assert_close(matrix @ solution.value, b, 1e-8)


@every_minimizer
def test_a_batch_of_different_problems_is_solved_as_each_alone(solver):
    scales = torch.tensor([1.0, 30.0, 0.01, 1e4], dtype=F64)
    target = randn(4, 3, seed=1)

    def objective(y, scales, target):
        return scales * ((y - target) ** 2 + 0.1 * (y - target) ** 4).sum(dim=1)

    options = solver(tol=1e-8)
    together = options(objective, torch.zeros_like(target), scales, target, batch_dims=1)
    assert together.converged.all()
    assert together.status.shape == (4,)
    assert_close(together.value, target, 1e-6)
    for i in range(4):
        one = slice(i, i + 1)
        alone = options(objective, torch.zeros_like(target[one]), scales[one], target[one], batch_dims=1)
        assert_close(together.value[one], alone.value, 1e-6)


@every_minimizer
def test_a_finished_problem_is_frozen_bitwise(solver):
    hard = torch.tensor([[False], [True], [False]])
    objective = Recorded(
        lambda y, hard: (
            torch.where(hard, 40 * y**2 + y**4 - 3 * y, y**2 - y).sum(dim=1) + hard[:, 0] * (y[:, 0] * y[:, 1])
        )
    )
    solution = solver(tol=1e-9)(objective, torch.full((3, 2), 2.0, dtype=F64), hard, batch_dims=1)
    assert solution.converged.all()
    reached = next(i for i, y in enumerate(objective.points) if torch.equal(y[0], solution.value[0]))
    assert reached < len(objective.points) - 1
    for y in objective.points[reached:]:
        assert torch.equal(y[0], solution.value[0])


@fast_minimizers
def test_a_batch_of_starts_for_rosenbrock(solver):
    starts = torch.tensor([[-1.2, 1.0], [1.0, 1.0], [0.0, 0.0], [2.0, -2.0]], dtype=F64)
    solution = solver(tol=1e-9)(rosenbrock, starts, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, torch.ones(4, 2), 1e-5)


@every_minimizer
def test_logistic_regression_agrees_with_scipy(solver):
    optimize = pytest.importorskip("scipy.optimize")
    features = randn(60, 4, seed=1)
    labels = (features @ randn(4, seed=2) + randn(60, seed=3) > 0).double()

    def loss(w):
        logits = features @ w
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels) + 0.01 * (w**2).sum()

    solution = solver(tol=1e-8)(loss, torch.zeros(4, dtype=F64))
    expected = optimize.minimize(
        lambda w: loss(torch.from_numpy(w)).item(),
        [0.0] * 4,
        jac=lambda w: torch.func.grad(loss)(torch.from_numpy(w)).numpy(),
        method="BFGS",
        options={"gtol": 1e-10},
    )
    assert solution.converged
    assert_close(solution.value, torch.from_numpy(expected.x), 1e-6)


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(MINIMIZERS)),
    systems=st.integers(1, 3),
    unknowns=st.integers(1, 5),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10_000),
)
def test_any_shape_of_a_convex_problem(name, systems, unknowns, dtype, seed):
    target = randn(systems, unknowns, seed=seed, dtype=dtype)
    tol = 1e-3 if dtype == torch.float32 else 1e-7

    def objective(y, target):
        return torch.cosh(y - target).sum(dim=1)

    solution = MINIMIZERS[name](tol=tol)(objective, torch.zeros_like(target), target, batch_dims=1)
    assert solution.converged.all()
    slope = torch.sinh(solution.value - target).norm(dim=1)
    assert (slope <= 1.01 * tol * torch.sinh(target).norm(dim=1)).all()


@every_minimizer
def test_a_scalar_unknown(solver):
    solution = solver(tol=1e-9)(lambda y: torch.exp(y) - 2 * y, torch.zeros((), dtype=F64))
    assert solution.converged
    assert solution.value.shape == ()
    assert abs(solution.value.item() - math.log(2)) < 1e-8


@every_minimizer
def test_a_pytree_of_unknowns(solver):
    def objective(y):
        return (y["w"] ** 2).sum() + (y["b"][0] - 3) ** 2 + (y["w"].sum() - y["b"][0]) ** 2

    start = {"w": torch.ones(2, 2, dtype=F64), "b": (torch.zeros((), dtype=F64),)}
    solution = solver(tol=1e-9)(objective, start)
    # w_ij = w with w + (4w - b) = 0 and (b - 3) = 4w - b: b = 5w, 2b = 4w + 3, so w = 1/2.
    assert solution.converged
    assert_close(solution.value["w"], torch.full((2, 2), 0.5), 1e-7)
    assert_close(solution.value["b"][0], torch.tensor(2.5), 1e-7)


@fast_minimizers
def test_negative_curvature_at_the_start_is_left_downhill(solver):
    """A double well from near the top: both wells are minima, the top is not."""
    start = torch.tensor([0.05, -0.1], dtype=F64)
    solution = solver(tol=1e-8)(lambda y: ((y**2 - 1) ** 2).sum(), start)
    assert solution.converged
    assert_close(solution.value.abs(), torch.ones(2), 1e-7)


@every_minimizer
def test_an_unbounded_objective_does_not_converge(solver):
    solution = solver(max_steps=60)(lambda y: -(y**2).sum() - y.sum(), torch.ones(2, dtype=F64))
    assert not solution.converged
    assert torch.isfinite(solution.value).all()


@every_minimizer
@pytest.mark.parametrize(
    "objective",
    [lambda y: -torch.exp(y).sum(), lambda y: y.clamp(min=0).sqrt().sum()],
    ids=["overflow", "infinite slope at the minimum"],
)
def test_a_point_with_a_gradient_that_is_not_finite_is_never_the_best(solver, objective):
    # The second may end at a true minimum, where the slope is zero: y < 0.
    solution = solver(max_steps=100)(objective, torch.tensor([1.0, 0.25], dtype=F64))
    assert not solution.converged or objective(solution.value) == 0
    assert torch.isfinite(solution.value).all()
    assert torch.isfinite(solution.residual)
    assert torch.isfinite(torch.func.grad(objective)(solution.value)).all()


@every_minimizer
def test_an_objective_that_is_nan_is_reported(solver):
    solution = solver()(lambda y: (y * math.nan).sum(), torch.ones(2, dtype=F64))
    assert solution.status in (Status.DIVERGED, Status.STALLED)
    assert torch.equal(solution.value, torch.ones(2, dtype=F64))


@every_minimizer
def test_a_nan_in_one_problem_leaves_the_others_alone(solver):
    target = torch.tensor([[1.0, 2.0], [math.nan, 0.0], [3.0, -1.0]], dtype=F64)
    solution = solver(tol=1e-8, max_steps=100)(
        lambda y, t: ((y - t) ** 2).sum(dim=1), torch.zeros_like(target), target, batch_dims=1
    )
    assert solution.converged.tolist() == [True, False, True]
    assert_close(solution.value[[0, 2]], target[[0, 2]], 1e-7)


@every_minimizer
def test_a_trial_outside_the_domain_is_cut_back(solver):
    """The barrier y - log y is NaN left of zero; from 50 the first trials land there."""
    solution = solver(tol=1e-8)(lambda y: (1e3 * y - torch.log(y)).sum(), torch.tensor([50.0], dtype=F64))
    assert solution.converged
    assert_close(solution.value, torch.tensor([1e-3]), 1e-5)


@every_minimizer
def test_a_start_at_the_minimum_takes_no_step(solver):
    objective = Recorded(lambda y: (y**2).sum())
    solution = solver()(objective, torch.zeros(3, dtype=F64))
    assert solution.converged
    assert solution.nfe == objective.calls == 1


@every_minimizer
def test_a_start_almost_at_the_minimum_ends(solver):
    """The first gradient is round-off, so no fraction of it can be reached; the point is still the answer."""
    target = randn(4, seed=1)
    solution = solver()(lambda y: ((y - target) ** 2 * 3).sum(), target * (1 + 1e-16) + 1e-17)
    assert_close(solution.value, target, 1e-14)
    assert solution.nfe < 400


@pytest.mark.parametrize("name", ["gradient_descent", "lbfgs", "newton_cg", "trust_region"])
@pytest.mark.parametrize("away", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_starts_so_near_the_minimum_that_the_objective_cannot_tell(name, away):
    """A better point has the start's objective, or one above it by round-off; only the gradient tells."""
    matrix = torch.stack([symmetric_matrix(torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=F64), seed=i) for i in range(300)])
    minimum = randn(300, 4, seed=1)

    def objective(y, matrix, minimum):
        return (y * (matrix @ (y / 2 - minimum).unsqueeze(-1)).squeeze(-1)).sum(-1)

    start = minimum + away * randn(300, 4, seed=2)
    solution = make_solver(name)(objective, start.float(), matrix.float(), minimum.float(), batch_dims=1)
    assert solution.converged.all()


@pytest.mark.parametrize("solver", [GradientDescent, LBFGS], ids=["gradient_descent", "lbfgs"])
def test_nfe_counts_each_call(solver):
    objective = Recorded(rosenbrock)
    solution = solver(max_steps=50, tol=1e-9)(objective, torch.tensor([-1.2, 1.0], dtype=F64))
    assert solution.nfe == objective.calls


def test_the_residual_is_the_gradient_relative_to_the_first():
    start = torch.tensor([[-1.2, 1.0], [0.5, 2.0]], dtype=F64)
    slope = torch.func.vmap(torch.func.grad(rosenbrock))
    for stop, scale in (("rel", slope(start).norm(dim=1)), ("abs", 1.0)):
        solution = LBFGS(max_steps=8, stop=stop)(rosenbrock, start, batch_dims=1)
        assert torch.allclose(solution.residual, slope(solution.value).norm(dim=1) / scale)


@pytest.mark.parametrize("solver", [GradientDescent, LBFGS], ids=["gradient_descent", "lbfgs"])
def test_the_host_reads_the_stop_and_whether_a_search_has_ended(solver):
    """Two reads a trial, one the first, and none elsewhere; with check_every the stop is read less often."""
    start = torch.tensor([-1.2, 1.0], dtype=F64)
    for check_every in (1, 10):
        with HostReads() as reads:
            solution = solver(max_steps=40, check_every=check_every)(rosenbrock, start)
        assert solution.nfe == 41
        # After every so many evaluations, and after the last one.
        assert reads.count == 39 + -(-41 // check_every)


def test_lbfgs_keeps_no_more_than_its_memory():
    peaks = []
    for max_steps in (15, 40):
        with PeakBytes() as peak:
            LBFGS(memory=4, max_steps=max_steps, tol=0.0)(rosenbrock, randn(300, seed=1))
        peaks.append(peak.peak)
    state = 300 * 8
    assert abs(peaks[1] - peaks[0]) <= 4 * state  # temporaries of a step; a pair more a step would be hundreds
    assert max(peaks) < (2 * 4 + 40) * state


def test_more_memory_takes_fewer_evaluations_on_an_ill_conditioned_problem():
    matrix, b = symmetric_matrix(torch.logspace(0, 2, 20, dtype=F64)), randn(20, seed=1)
    few = LBFGS(memory=1, tol=1e-6)(quadratic(matrix, b), torch.zeros(20, dtype=F64))
    many = LBFGS(memory=20, tol=1e-6)(quadratic(matrix, b), torch.zeros(20, dtype=F64))
    assert few.converged
    assert many.converged
    assert many.nfe < few.nfe


def test_argmin_differentiates_the_answer_of_any_solver():
    """Ridge regression: w = (X^T X + exp(a) I)^-1 X^T y, dw/da = -exp(a) (X^T X + exp(a) I)^-1 w."""
    optimize = pytest.importorskip("scipy.optimize")
    features, targets = randn(20, 3, seed=1), randn(20, seed=2)
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)

    def loss(w, a):
        return ((features @ w - targets) ** 2).sum() + torch.exp(a) * (w**2).sum()

    def scipy_solver(objective, w0, a):
        result = optimize.minimize(
            lambda w: objective(torch.from_numpy(w), a).item(), w0.numpy(), method="Nelder-Mead", tol=1e-12
        )
        return torch.from_numpy(result.x)

    gram = features.T @ features + torch.exp(a.detach()) * torch.eye(3, dtype=F64)
    w = torch.linalg.solve(gram, features.T @ targets)
    slope = -torch.exp(a.detach()) * torch.linalg.solve(gram, w)
    for solver in (GradientDescent(tol=1e-10), LBFGS(tol=1e-10), NewtonCG(tol=1e-10), scipy_solver):
        answer = argmin(loss, torch.zeros(3, dtype=F64), a, solver=solver)
        assert_close(answer, w, 1e-7)
        for i in range(3):
            (grad,) = torch.autograd.grad(answer[i], a, retain_graph=True)
            assert_close(grad, slope[i], 1e-6)


def test_the_gradient_at_a_saddle_is_reported_for_its_bad_curvature():
    """A solver of the user's own returns a saddle: CG finds H indefinite, GMRES takes it as it is."""
    a = torch.ones(2, dtype=F64, requires_grad=True)

    def saddle(y, a):
        return 0.5 * (y[0] - a[0]) ** 2 - 0.5 * (y[1] - a[1]) ** 2

    y, solution = argmin(saddle, a, a, solver=lambda f, y0, a: a, return_solution=True)
    with pytest.warns(NonConvergenceWarning, match="1 bad curvature"):
        torch.autograd.grad(y[1], a, retain_graph=True)
    assert solution.backward.status == Status.BAD_CURVATURE
    y = argmin(saddle, a, a, solver=lambda f, y0, a: a, adjoint=Implicit(GMRES()))
    assert_close(torch.autograd.grad(y.sum(), a)[0], torch.ones(2), 1e-12)


def test_an_objective_of_the_wrong_shape_is_an_error_that_says_which():
    with pytest.raises(ValueError, match=r"shape \(2,\).*batch_dims=1.*\(\)"):
        LBFGS()(lambda y: (y**2).sum(), torch.zeros(2, 3), batch_dims=1)
    with pytest.raises(ValueError, match=r"shape \(\)"):
        LBFGS()(lambda y: y**2, torch.zeros(3))
    with pytest.raises(ValueError, match="float"):
        LBFGS()(lambda y: 3.0, torch.zeros(3))


def test_minimisers_by_name_and_in_the_wrong_place():
    assert make_solver("lbfgs", memory=4) == LBFGS(memory=4)
    with pytest.raises(ValueError, match="memory >= 1"):
        LBFGS(memory=0)
    with pytest.raises(TypeError, match=r"Newton does not minimise.*lbfgs"):
        argmin(lambda y: (y**2).sum(), torch.ones(2), solver=Newton())


def test_no_unknown_is_scaled_beyond_round_off():
    """By sqrt(eps) of the largest curvature at least, whatever its own is."""
    curvatures = torch.tensor([[4.0, 1e-2, 1e-40, 0.0]], dtype=F64)
    assert_close(_scales(torch.diag_embed(curvatures)), torch.tensor([[2.0, 0.1, 2**-25, 2**-25]], dtype=F64), 1e-15)


def test_an_empty_batch_is_solved_at_once():
    solution = LBFGS()(lambda y: (y**2).sum(dim=1), torch.zeros(0, 3), batch_dims=1)
    assert solution.value.shape == (0, 3)
    assert solution.nfe == 1


@pytest.mark.parametrize("name", ["gradient_descent", "lbfgs", "newton_cg", "trust_region"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kinks_are_no_minima(name, dtype):
    """Tiny steps across a kink tell of no curvature that would excuse a large gradient."""

    def objective(y):
        return (y - 0.3).abs().sum() + 0.5 * (y[0] - 1) ** 2

    start = torch.tensor([3.0, -2.0], dtype=dtype)
    _, solution = argmin(objective, start, solver=make_solver(name), on_failure="ignore", return_solution=True)
    y = solution.value.requires_grad_()
    (slope,) = torch.autograd.grad(objective(y), y)
    assert objective(y) < objective(start)
    assert solution.status != Status.CONVERGED or slope.norm() < 1e-3


@pytest.mark.parametrize("solver", [LBFGS(), NewtonCG(), TrustRegion()])
def test_objectives_without_curvature_at_the_start(solver):
    """Huber's loss, linear far out, and a ramp with a parabola behind it."""
    target, far = torch.tensor([3.0, -1.0], dtype=F64), torch.tensor([-9.0, 900.0], dtype=F64)
    solution = solver(lambda y: torch.nn.functional.huber_loss(y, target, reduction="sum"), far)
    assert solution.converged
    torch.testing.assert_close(solution.value, target)
    solution = solver(lambda y: y.sum() + torch.relu(-y - 5).square().sum(), 0 * far)
    assert solution.converged
    torch.testing.assert_close(solution.value, torch.full_like(far, -5.5))
