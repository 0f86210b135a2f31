"""What the solvers report and do besides the answer: status, residual, NFE, trace, freezing, host reads."""

import math

import pytest
import torch

from deqzoo.implicit import (
    Anderson,
    Broyden,
    Newton,
    NewtonKrylov,
    NonConvergenceError,
    Picard,
    Status,
    fixed_point,
)
from tests.implicit.solvers.helpers import (
    DTYPES,
    F64,
    ITERATIONS,
    HostReads,
    Recorded,
    affine,
    affine_answer,
    batch,
    every_iteration,
    every_solver,
    matrix_of_norm,
    randn,
    true_residual,
    uneven,
)

# --- residual, NFE, steps, trace ---


@every_solver
@pytest.mark.parametrize("stop", ["rel", "abs"])
@pytest.mark.parametrize("max_steps", [3, 200])
def test_the_residual_is_that_of_the_value_returned(solver, stop, max_steps):
    start, *rest = batch()
    solution = solver(tol=1e-9, stop=stop, max_steps=max_steps)(uneven, start, *rest, batch_dims=1)
    expected = true_residual(uneven, solution.value, *rest, stop=stop)
    assert torch.allclose(solution.residual, expected, rtol=1e-6, atol=1e-15)
    assert torch.equal(solution.converged, expected <= 1e-9)


@every_iteration
@pytest.mark.parametrize("check_every", [1, 4])
def test_nfe_is_the_number_of_calls(solver, check_every):
    f = Recorded(uneven)
    start, *rest = batch()
    solution = solver(check_every=check_every)(f, start, *rest, batch_dims=1)
    assert solution.nfe == f.calls
    assert solution.converged.all()


def test_nfe_of_newton_counts_a_product_a_column():
    """Each step: one evaluation to linearise, n products, one evaluation of the new point."""
    f = Recorded(uneven)
    start, *rest = batch()
    solution = Newton()(f, start, *rest, batch_dims=1)
    steps = int(solution.steps.max())
    assert f.calls == 1 + 2 * steps
    assert solution.nfe == f.calls + 3 * steps


def test_nfe_of_newton_krylov_counts_each_product():
    class Products(torch.autograd.Function):
        """The identity; the backward of its backward is where a product with the Jacobian passes."""

        generate_vmap_rule = False
        count = 0

        @staticmethod
        def forward(ctx, z):
            return z.clone()

        @staticmethod
        def backward(ctx, g):
            return Pull.apply(g)

    class Pull(torch.autograd.Function):
        @staticmethod
        def forward(ctx, g):
            return g.clone()

        @staticmethod
        def backward(ctx, v):
            Products.count += 1
            return v

    start, *rest = batch()
    f = Recorded(lambda z, *rest: uneven(Products.apply(z), *rest))
    solution = NewtonKrylov()(f, start, *rest, batch_dims=1)
    assert solution.converged.all()
    assert Products.count > 0
    assert solution.nfe == f.calls + Products.count


@every_solver
def test_the_budget_of_calls_is_kept(solver):
    f = Recorded(lambda z: 0.999 * torch.sin(z) + 1)
    solution = solver(tol=0.0, max_steps=7)(f, torch.zeros(2, dtype=F64))
    if solver in ITERATIONS.values():
        assert f.calls == solution.nfe == 8
    assert solution.steps <= 7


@every_iteration
def test_the_trace_is_the_residual_at_each_iterate(solver):
    f = Recorded(uneven)
    start, *rest = batch()
    solution = solver(trace=True, tol=1e-8)(f, start, *rest, batch_dims=1)
    expected = torch.stack([true_residual(uneven, z, *rest) for z in f.points])
    assert solution.trace.shape == (solution.nfe, 4)
    assert torch.allclose(solution.trace, expected, rtol=1e-9, atol=1e-16)
    assert torch.equal(solution.trace.amin(dim=0), solution.residual)


def test_without_trace_none_is_kept():
    assert Picard()(torch.cos, torch.tensor(1.0)).trace is None


def test_a_trace_of_one_system_has_one_axis():
    solution = Picard(trace=True)(torch.cos, torch.tensor(1.0))
    assert solution.trace.shape == (solution.nfe,)


@every_iteration
def test_the_best_iterate_is_returned_not_the_last(solver):
    """The residual grows after the third call."""
    f = Recorded(lambda z: 0.5 * z + 1 if f.calls <= 3 else 3 * z + 5)
    solution = solver(max_steps=6, tol=1e-12, trace=True)(f, torch.full((1, 2), 7.0, dtype=F64), batch_dims=1)
    best = int(solution.trace[:, 0].argmin())
    assert solution.residual == solution.trace[best, 0]
    assert torch.equal(solution.value, f.points[best])


LEAP = [[-10.0, 0.0], [0.0, 0.0], [0.01, 0.0], [1000.0, 0.0], [1000.02, 0.0]]  # the fourth converges, by its size
LEAP_BY_COMPONENTS = [[-10.0, 0.0], [0.0, 0.0], [0.5, 0.2], [98.95, -0.05], [100.0, 0.0]]  # so does the fourth


@pytest.mark.parametrize(
    ("points", "options"), [(LEAP, {"tol": 1e-4}), (LEAP_BY_COMPONENTS, {"tol": 0.01, "atol": 0.1})]
)
def test_converged_tells_of_the_iterate_returned_where_an_earlier_residual_was_smaller(points, options):
    """f takes each point to the next; ||f(z) - z|| is least at the second, far from converged beside ||f(z)||."""
    points = torch.tensor(points, dtype=F64)

    def f(z):
        return points[torch.cdist(z, points).argmin(dim=1) + 1]

    solution = Picard(**options)(f, points[:2], batch_dims=1)  # the other sample is a step ahead
    assert solution.converged.all()
    assert solution.steps.tolist() == [3, 2]
    assert torch.equal(solution.value, points[[3, 3]])
    assert torch.allclose(solution.residual, true_residual(f, solution.value), rtol=1e-12)


# --- freezing and the host ---


@every_solver
@pytest.mark.parametrize("check_every", [1, 3])
def test_a_finished_sample_is_frozen_bitwise(solver, check_every):
    f = Recorded(uneven)
    start, *rest = batch()
    solution = solver(tol=1e-8, check_every=check_every, max_steps=300)(f, start, *rest, batch_dims=1)
    assert solution.converged.all()
    assert len(set(solution.steps.tolist())) > 1, "the samples should end at different steps"
    first = int(solution.steps.argmin())
    reached = next(i for i, z in enumerate(f.points) if torch.equal(z[first], solution.value[first]))
    if solver in ITERATIONS.values():
        assert reached == solution.steps[first]
    for z in f.points[reached:]:
        assert torch.equal(z[first], solution.value[first])


@every_iteration
@pytest.mark.parametrize("check_every", [2, 5, 1000])
def test_looking_rarely_changes_the_host_reads_and_not_the_result(solver, check_every):
    start, *rest = batch()
    often = solver()(uneven, start, *rest, batch_dims=1)
    with HostReads() as reads:
        rarely = solver(check_every=check_every)(uneven, start, *rest, batch_dims=1)
    assert torch.equal(rarely.value, often.value)
    assert torch.equal(rarely.status, often.status)
    assert torch.equal(rarely.steps, often.steps)
    assert torch.equal(rarely.residual, often.residual)
    assert often.nfe <= rarely.nfe <= min(often.nfe + check_every - 1, 101)
    looks = sum((step + 1) % check_every == 0 or step == 100 for step in range(rarely.nfe))
    assert reads.count == looks


@every_iteration
def test_the_host_reads_nothing_but_the_stop_checks(solver):
    start, *rest = batch()
    with HostReads() as reads:
        solution = solver()(uneven, start, *rest, batch_dims=1)
    assert reads.count == solution.nfe


@pytest.mark.parametrize(
    ("solver", "root"),
    [(Picard, False), (Anderson, False), (Broyden, False), (Broyden, True), (Newton, True), (NewtonKrylov, True)],
)
@pytest.mark.parametrize("check_every", [1, 3])
@pytest.mark.parametrize("max_steps", [2, 100])
def test_whether_all_converged_is_read_with_the_stop_rule(solver, root, check_every, max_steps):
    """Neither the solver nor the check of what it returned reads anything of its own where all converged."""
    start, *rest = batch()
    options = {"batch_dims": 1, "root": root}
    f = (lambda *z: z[0] - uneven(*z)) if root else uneven
    solver = solver(check_every=check_every, max_steps=max_steps)
    with HostReads() as reads:
        solution = solver(f, start, *rest, **options)
        of_solver = reads.count
        solution.check("ignore", "solve")
        if solution.all_converged:
            solution.check("raise", "solve")
            assert solution.replace_failed(solution.value) is solution.value
    assert reads.count == of_solver
    assert solution.all_converged is bool(solution.converged.all())
    assert solution.all_converged is (max_steps == 100)


def test_without_a_stop_a_warning_is_not_worth_a_host_read():
    with HostReads() as reads:
        z = fixed_point(torch.exp, torch.zeros(2, 3), solver=Picard(stop="never", max_steps=9), batch_dims=1)
    assert reads.count == 0
    assert z.isnan().all()
    with pytest.raises(NonConvergenceError, match="2 diverged"):
        fixed_point(
            torch.exp, torch.zeros(2, 3), solver=Picard(stop="never", max_steps=9), batch_dims=1, on_failure="raise"
        )


@every_solver
def test_looking_rarely_still_finds_the_answer(solver):
    matrix, x = matrix_of_norm(6, 0.6), randn(3, 6, seed=2)
    solution = solver(check_every=7)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert (solution.value - affine_answer(matrix, x)).norm() < 1e-10


# --- status ---


@every_solver
def test_converged(solver):
    assert solver()(torch.cos, torch.tensor(1.0)).status == Status.CONVERGED


@every_solver
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tolerance_below_round_off_stalls_at_the_answer(solver, dtype):
    x = randn(2, 5, seed=3, dtype=dtype)
    solution = solver(tol=0.0, max_steps=5000, patience=20)(
        lambda z: 0.4 * torch.sin(z.roll(1, 1)) + x, x, batch_dims=1
    )
    assert set(solution.status.tolist()) <= {Status.STALLED, Status.CONVERGED}  # 0 <= 0 converges
    assert (solution.residual <= 10 * torch.finfo(dtype).eps).all()
    assert solution.nfe < 2000


@pytest.mark.parametrize("solver", [Anderson, Broyden])
def test_a_start_that_is_a_root_within_the_size_of_its_terms_is_taken(solver):
    """1000 (z - 1) at 1 + 1e-10: 1e-7 is much beside z, and within 1e-9 of the terms, which are 1000."""
    start = torch.full((2,), 1 + 1e-10, dtype=F64)
    solution = solver(tol=1e-9)(lambda z: 1000 * (z - 1), start, root=True)
    assert solution.status == Status.CONVERGED
    assert solution.steps == 0
    assert solution.nfe == 2
    assert torch.equal(solution.value, start)


@every_iteration
def test_an_argument_that_is_not_finite_diverges_at_once(solver):
    """Whatever f makes of it: here tanh(inf) = 1."""
    x = torch.tensor([[0.5], [math.inf]], dtype=F64)
    solution = solver()(lambda z, x: torch.tanh(0.5 * z + x), torch.zeros_like(x), x, batch_dims=1)
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED]
    assert solution.steps[1] == 0


def test_the_rule_without_a_stop_is_met_with_equality():
    """z + 1 from 0: after three steps ||f(z) - z|| = 1 = tol ||f(z)||, as at the start."""
    for tol, status in ((0.25, Status.CONVERGED), (0.24, Status.MAX_STEPS)):
        solution = Picard(stop="never", tol=tol, max_steps=3)(lambda z: z + 1, torch.zeros(1, dtype=F64))
        assert solution.status == status


def test_a_cycle_stalls():
    solution = Picard(max_steps=1000, patience=25)(lambda z: -z + 1, torch.zeros(2, dtype=F64))
    assert solution.status == Status.STALLED
    assert solution.nfe == 26


def test_an_iterate_mapped_to_zero_is_not_the_best():
    """Its relative residual, ||g|| / 0, is infinite and not zero."""
    f = lambda z: torch.relu(0.9 * z - 1) + 0.9 * (z <= 0)  # noqa: E731
    solution = Picard(max_steps=5)(f, torch.ones(1, 2), batch_dims=1)
    assert (solution.residual > 0.01).all()
    assert not solution.converged.any()


@pytest.mark.parametrize("solver", [Picard, Anderson], ids=["picard", "anderson"])
def test_iterates_that_overflow_diverge_and_the_best_finite_one_is_kept(solver):
    start = torch.tensor([[1.5, 2.0]], dtype=F64)
    solution = solver(max_steps=1000)(lambda z: torch.exp(z) * z * z + 1, start, batch_dims=1)
    assert solution.status.tolist() == [Status.DIVERGED]
    assert torch.isfinite(solution.value).all()
    assert torch.isfinite(solution.residual).all()


@every_solver
def test_a_map_that_is_nan_everywhere_diverges_and_gives_the_start_back(solver):
    start = randn(2, 3)
    solution = solver()(lambda z: z * math.nan, start, batch_dims=1)
    assert solution.status.tolist() == [Status.DIVERGED] * 2
    assert torch.equal(solution.value, start)
    assert not torch.isfinite(solution.residual).any()


@every_solver
def test_the_step_limit_is_reported(solver):
    solution = solver(max_steps=2, tol=1e-15)(lambda z: torch.cos(z) + z.mean() / 3, randn(6))
    assert solution.status == Status.MAX_STEPS
    assert solution.steps == 2


def test_one_batch_may_end_in_four_ways():
    kind = torch.tensor([[0], [1], [2], [3]])

    def f(z, kind):
        converges, cycles = 0.5 * z + 1, -z + 1
        diverges, slow = z * z + 2, 0.9999 * z + 1
        rest = torch.where(kind == 2, diverges, slow)
        return torch.where(kind == 0, converges, torch.where(kind == 1, cycles, rest))

    solution = Picard(max_steps=120, patience=60)(f, torch.zeros(4, 2, dtype=F64), kind, batch_dims=1)
    assert solution.status.tolist() == [Status.CONVERGED, Status.STALLED, Status.DIVERGED, Status.MAX_STEPS]
    assert solution.converged.tolist() == [True, False, False, False]
    assert torch.isfinite(solution.value).all()


@every_solver
@pytest.mark.parametrize("max_steps", [0, 1, 2])
def test_few_steps_are_taken_and_their_best_iterate_is_returned(solver, max_steps):
    f = Recorded(torch.cos)
    start = torch.full((1, 3), 0.2, dtype=F64)
    solution = solver(max_steps=max_steps)(f, start, batch_dims=1)
    assert solution.steps.tolist() == [max_steps]
    assert torch.equal(solution.value, start) == (max_steps == 0)
    assert torch.allclose(solution.residual, true_residual(torch.cos, solution.value))
