"""A single system on the CPU has recurrences of its own, in Python's numbers: the same results as a row of a batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqzoo.implicit import CG, GMRES, Anderson, LinearOperator, Status
from deqzoo.implicit.fixed_point_solvers.gram import solve_definite
from deqzoo.implicit.fixed_point_solvers.judge import Judge, StopRule
from deqzoo.implicit.fixed_point_solvers.judge_of_one import JudgeOfOne
from deqzoo.implicit.precision import finite_inputs

seeds = st.integers(0, 10_000)
sizes = st.integers(1, 40)
dtypes = st.sampled_from([torch.float32, torch.float64])


def system(seed, n, dtype, spread=0.5):
    generator = torch.Generator().manual_seed(seed)
    a = torch.eye(n, dtype=dtype) + spread * torch.randn(n, n, generator=generator, dtype=dtype) / n**0.5
    return a, torch.randn(1, n, generator=generator, dtype=dtype)


@given(seeds, sizes, dtypes, st.sampled_from([30, 5]), st.booleans())
def test_gmres_alone_is_gmres_in_a_batch(seed, n, dtype, restart, preconditioned):
    a, b = system(seed, n, dtype)
    preconditioner = (lambda v: v / a.diagonal()) if preconditioned else None
    solver = GMRES(restart=restart)

    def solve(copies):
        operator = LinearOperator(lambda v: v @ a.mT, preconditioner=preconditioner)
        return solver(operator, b.expand(copies, -1).clone())

    alone, batch = solve(1), solve(2)
    assert alone.status.item() == batch.status[0] == Status.CONVERGED
    tol = 50 * torch.finfo(dtype).eps ** 0.75 * torch.linalg.cond(a).item()
    exact = torch.linalg.solve(a, b[0])
    assert torch.linalg.vector_norm(alone.value[0] - exact) <= tol * torch.linalg.vector_norm(exact)
    assert abs(alone.nfe - batch.nfe) <= 1 + restart // 5
    assert abs(alone.steps.item() - batch.steps[0].item()) <= 2


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("limit", [1, 3])
def test_gmres_stopped_early_has_the_least_residual_of_its_space(copies, limit):
    a, b = system(0, 12, torch.float64)
    solution = GMRES(max_steps=limit)(LinearOperator(lambda v: v @ a.mT), b.expand(copies, -1).clone())
    powers = [b[0]]
    for _ in range(limit - 1):
        powers.append(a @ powers[-1])
    images = torch.stack([a @ v for v in powers], dim=1)
    least = torch.linalg.vector_norm(images @ torch.linalg.lstsq(images, b.mT).solution - b.mT) / b.norm()
    assert solution.status.tolist() == [Status.MAX_STEPS] * copies
    torch.testing.assert_close(solution.residual, least.expand(copies), rtol=1e-9, atol=0)


@pytest.mark.parametrize("copies", [1, 2])
def test_gmres_of_singular_systems(copies):
    a = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    operator = LinearOperator(lambda v: v @ a.mT)
    solvable = GMRES()(operator, torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64).repeat(copies, 1))
    assert solvable.status.tolist() == [Status.CONVERGED] * copies
    torch.testing.assert_close(solvable.value[0], torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    inconsistent = GMRES()(operator, torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64).repeat(copies, 1))
    assert inconsistent.status.tolist() == [Status.STALLED] * copies
    torch.testing.assert_close(inconsistent.residual, torch.full((copies,), 3**-0.5, dtype=torch.float64))


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gmres_of_a_matrix_that_is_not_finite(copies, value):
    b = torch.ones(copies, 3)
    solution = GMRES()(LinearOperator(lambda v: v * torch.tensor([1.0, 2.0, value])), b)
    assert solution.status.tolist() == [Status.DIVERGED] * copies
    assert GMRES()(LinearOperator(lambda v: 2 * v), torch.zeros(copies, 3)).value.eq(0).all()


@given(seeds, sizes, dtypes, st.integers(1, 8), st.sampled_from([1.0, 0.7]))
def test_anderson_alone_is_anderson_in_a_batch(seed, n, dtype, depth, damping):
    _, b = system(seed, n, dtype)
    w = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    w = 0.8 * w / torch.linalg.matrix_norm(w, 2)
    solver = Anderson(depth=depth, damping=damping)
    alone = solver(lambda z: torch.tanh(z @ w.mT + b), torch.zeros(1, n, dtype=dtype), batch_dims=1)
    batch = solver(lambda z: torch.tanh(z @ w.mT + b), torch.zeros(2, n, dtype=dtype), batch_dims=1)
    assert alone.converged.all()
    assert batch.converged.all()
    assert abs(alone.nfe - batch.nfe) <= 3 + alone.nfe // 5
    torch.testing.assert_close(
        alone.value[0], batch.value[0], rtol=0, atol=20 * torch.finfo(dtype).eps ** 0.75 * n**0.5
    )


@given(seeds, st.integers(1, 8))
def test_positive_definite_systems_of_pythons_numbers(seed, n):
    generator = torch.Generator().manual_seed(seed)
    m = torch.randn(n, n, generator=generator, dtype=torch.float64)
    a, b = m @ m.mT + torch.eye(n, dtype=torch.float64), torch.randn(n, generator=generator, dtype=torch.float64)
    found = torch.tensor(solve_definite(a.tolist(), b.tolist()), dtype=torch.float64)
    torch.testing.assert_close(found, torch.linalg.solve(a, b), rtol=1e-9, atol=1e-9)


def test_a_pivot_that_is_not_positive_brings_nothing():
    assert solve_definite([[0.0, 0.0], [0.0, 2.0]], [1.0, 4.0]) == [0.0, 2.0]


@given(st.sampled_from([math.nan, math.inf, -math.inf, 3e38, -3e38]), st.sampled_from([torch.float32, torch.complex64]))
def test_inputs_that_are_not_finite_are_found(value, dtype):
    x = torch.ones(3, 2, 4, dtype=dtype)
    x[1, 1, 2] = value
    found = finite_inputs([x, torch.full((5,), math.inf)], torch.Size([3]), x.device)
    assert found.tolist() == [True, math.isfinite(value), True]


def test_cg_alone_is_cg_in_a_batch():
    a, b = system(1, 20, torch.float64)
    a = a @ a.mT + torch.eye(20, dtype=torch.float64)  # of so small a condition that no rounding changes the count
    operator = LinearOperator(lambda v: v @ a, tags=("positive_definite",))
    alone, batch = CG()(operator, b), CG()(operator, b.repeat(2, 1))
    assert alone.nfe == batch.nfe
    torch.testing.assert_close(alone.value[0], batch.value[0], rtol=1e-10, atol=1e-10)


@given(st.data())
def test_the_stop_rule_of_one_decides_as_that_of_a_batch(data):
    """On residuals and images drawn at random, among them runs that stall, diverge, rest at zero or start amiss."""
    size = st.one_of(st.floats(-3, 3).map(lambda e: 10.0**e), st.sampled_from([0.0, math.inf, 1e-30]))
    norms = data.draw(st.lists(st.tuples(size | st.just(math.nan), size), min_size=1, max_size=12))
    stop, atol = data.draw(st.sampled_from(["rel", "abs"])), data.draw(st.sampled_from([0.0, 1e-2]))
    rule = StopRule(stop, 1e-2, atol, patience=data.draw(st.integers(1, 4)), eps=1e-12)
    finite = data.draw(st.sampled_from([None, torch.tensor([True]), torch.tensor([False])]))
    z = torch.zeros(1, 2, dtype=torch.float64)
    one, batch = JudgeOfOne(rule, z, finite, trace=True), Judge(rule, z, None, finite, trace=True)
    for step, (norm, size) in enumerate(norms):
        arguments = step, z + step, norm * torch.ones_like(z), size * torch.ones_like(z), True
        going = one.assess(*arguments)
        assert going == batch.assess(*arguments)
        if not going[0]:
            break
    found, expected = one.solution(3), batch.solution(3)
    for name in ("value", "status", "residual", "steps", "trace"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0, equal_nan=True)
    assert found.all_converged == expected.all_converged
