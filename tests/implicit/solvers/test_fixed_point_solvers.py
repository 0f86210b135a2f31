"""Fixed points with known answers: every solver, shapes, dtypes, pytrees, batches, memory layouts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit import Anderson, Broyden, Newton, Picard, Status, fixed_point
from tests.implicit.solvers.helpers import (
    DTYPES,
    F64,
    FIXED_POINT_SOLVERS,
    ITERATIONS,
    Recorded,
    affine,
    affine_answer,
    assert_close,
    matrix_of_norm,
    randn,
    symmetric_matrix,
    true_residual,
)

every_solver = pytest.mark.parametrize("solver", FIXED_POINT_SOLVERS.values(), ids=FIXED_POINT_SOLVERS.keys())
DOTTIE = 0.7390851332151607  # the fixed point of the cosine


@every_solver
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cosine_has_its_known_fixed_point(solver, dtype):
    solution = solver()(torch.cos, torch.tensor(1.0, dtype=dtype))
    assert solution.status == Status.CONVERGED
    assert solution.value.shape == ()
    assert solution.value.dtype == dtype
    assert abs(solution.value.item() - DOTTIE) <= torch.finfo(dtype).eps ** 0.75


@every_solver
@pytest.mark.parametrize("dtype", DTYPES)
def test_affine_maps_agree_with_a_dense_solve(solver, dtype):
    matrix, x = matrix_of_norm(12, 0.7, dtype=dtype), randn(5, 12, seed=1, dtype=dtype)
    solution = solver()(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, affine_answer(matrix, x), torch.finfo(dtype).eps ** 0.75 / 0.3)


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(FIXED_POINT_SOLVERS)),
    systems=st.integers(1, 4),
    unknowns=st.integers(1, 7),
    norm=st.sampled_from([0.1, 0.5, 0.8]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10_000),
)
def test_any_shape_and_dtype_is_solved_within_the_error_bound(name, systems, unknowns, norm, dtype, seed):
    """||z - z*|| <= tol ||f(z)|| / (1 - L) for a map with Lipschitz constant L."""
    tol = 1e-4 if dtype == torch.float32 else 1e-9
    matrix = matrix_of_norm(unknowns, norm, seed, dtype)
    x = randn(systems, unknowns, seed=seed + 1, dtype=dtype)
    solution = FIXED_POINT_SOLVERS[name](tol=tol)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert solution.status.shape == solution.residual.shape == solution.steps.shape == (systems,)
    error = (solution.value.double() - affine_answer(matrix, x)).norm(dim=1)
    bound = 1.01 * tol * affine(matrix)(solution.value, x).double().norm(dim=1) / (1 - norm)
    assert (error <= bound).all()


@settings(max_examples=20)
@given(
    name=st.sampled_from(sorted(FIXED_POINT_SOLVERS)),
    shape=st.sampled_from([(), (1,), (3,), (2, 3), (1, 2, 2), (2, 1, 3, 2)]),
    seed=st.integers(0, 10_000),
)
def test_without_batch_dims_any_shape_is_one_system(name, shape, seed):
    x = randn(*shape, seed=seed)

    def f(z):
        return torch.tanh(0.5 * (z.roll(1, -1) if z.dim() else z) + x)

    solution = FIXED_POINT_SOLVERS[name]()(f, x)
    assert solution.value.shape == shape
    assert solution.status.shape == solution.residual.shape == solution.steps.shape == ()
    assert solution.converged
    assert (f(solution.value) - solution.value).norm() <= 2e-12 * solution.value.norm() + 1e-15


@every_solver
def test_a_pytree_with_leaves_of_different_shapes_is_one_coupled_system(solver):
    """Three leaves that depend on each other, against the same map on a flat vector."""
    matrix, x = matrix_of_norm(9, 0.8), randn(9, seed=1)

    def flat(z):
        return torch.tanh(matrix @ z + x)

    def tree(z):
        y = flat(torch.cat([z["a"].reshape(6), z["b"][0].reshape(1), z["b"][1]]))
        return {"a": y[:6].reshape(2, 3), "b": (y[6], y[7:])}

    start = {"a": torch.zeros(2, 3, dtype=F64), "b": (torch.zeros((), dtype=F64), torch.zeros(2, dtype=F64))}
    solution = solver()(tree, start)
    expected = Picard(max_steps=1000)(flat, torch.zeros(9, dtype=F64)).value
    assert solution.converged
    assert_close(solution.value["a"].reshape(6), expected[:6], 1e-10)
    assert_close(solution.value["b"][0], expected[6], 1e-10)
    assert_close(solution.value["b"][1], expected[7:], 1e-10)


@every_solver
def test_a_tuple_state_with_two_leaves_a_sample_is_solved_sample_by_sample(solver):
    x = randn(4, 3, seed=2)

    def f(z, x):
        u, v = z
        return torch.tanh(0.3 * v.unsqueeze(1) + x), torch.cos(u).mean(dim=1)

    start = (torch.zeros(4, 3, dtype=F64), torch.zeros(4, dtype=F64))
    u, v = solver()(f, start, x, batch_dims=1).value
    again = f((u, v), x)
    assert_close(u, again[0], 1e-11)
    assert_close(v, again[1], 1e-11)


def test_leaves_keep_their_dtypes_and_the_solve_takes_the_widest():
    start = {"narrow": torch.zeros(3), "wide": torch.zeros(3, dtype=F64)}
    points = []

    def both(z):
        points.append(z)
        return {"narrow": torch.cos(z["wide"]).float(), "wide": torch.cos(z["narrow"].double())}

    solution = Picard(tol=1e-6)(both, start)
    assert solution.converged
    assert solution.value["narrow"].dtype == torch.float32
    assert solution.value["wide"].dtype == F64
    assert all(z["narrow"].dtype == torch.float32 and z["wide"].dtype == F64 for z in points)
    assert_close(solution.value["wide"], torch.full((3,), DOTTIE, dtype=F64), 1e-5)


@pytest.mark.parametrize("solver", ITERATIONS.values(), ids=ITERATIONS.keys())
def test_a_half_precision_state_is_solved_in_float32(solver):
    solution = solver(tol=2e-2)(lambda z: torch.cos(z), torch.ones(4, dtype=torch.bfloat16))
    assert solution.value.dtype == torch.bfloat16
    assert solution.residual.dtype == torch.float32
    assert solution.converged
    assert (solution.value.float() - DOTTIE).abs().max() < 2e-2


@every_solver
def test_a_system_of_the_batch_gets_the_answer_it_gets_alone(solver):
    """Within 2 tol ||z|| / (1 - L), for systems of very different difficulty."""
    tol, gains = 1e-6, torch.tensor([0.05, 0.5, 0.9, 0.97], dtype=F64)
    x = randn(4, 6, seed=3)
    mixing = matrix_of_norm(6, 1.0, seed=4)

    def f(z, x, gain):
        return gain.unsqueeze(1) * torch.sin(z @ mixing.T) + x

    options = solver(tol=tol, max_steps=2000)
    together = options(f, torch.zeros_like(x), x, gains, batch_dims=1)
    assert together.converged.all()
    for i, gain in enumerate(gains):
        alone = options(f, torch.zeros_like(x[i : i + 1]), x[i : i + 1], gains[i : i + 1], batch_dims=1)
        difference = (together.value[i] - alone.value[0]).norm()
        assert difference <= 2 * tol * alone.value.norm() * 1.01 / (1 - gain)


def test_plain_iteration_of_a_sample_is_bitwise_the_same_in_any_batch():
    """The map and the update act on each number by itself, so that not one rounding may differ."""
    x = torch.linspace(-2, 2, 6, dtype=F64).unsqueeze(1) + randn(6, 5, seed=5)
    gain = torch.tensor([0.1, 0.9, 0.5, 0.99, 0.3, 0.7], dtype=F64).unsqueeze(1)

    def f(z, x, gain):
        return gain * torch.cos(z) + x

    solver = Picard(tol=1e-8, max_steps=3000)
    together = solver(f, torch.zeros_like(x), x, gain, batch_dims=1)
    for i in range(6):
        one = slice(i, i + 1)
        alone = solver(f, torch.zeros_like(x[one]), x[one], gain[one], batch_dims=1)
        assert torch.equal(together.value[one], alone.value)
        assert torch.equal(together.steps[one], alone.steps)
        assert torch.equal(together.residual[one], alone.residual)


@every_solver
def test_a_sample_without_a_fixed_point_does_not_disturb_the_others(solver):
    """One sample jumps for ever, one is NaN at once; between them stands a system that must not notice."""
    x = torch.tensor([[1.0, 1.0], [0.5, 0.2], [math.nan, 0.0]], dtype=F64)
    jumps = torch.tensor([[True], [False], [False]])

    def f(z, x, jumps):
        return torch.where(jumps, torch.where(z > 0, -x, x), 0.5 * torch.cos(z) + x)

    options = solver(tol=1e-10, max_steps=60)
    together = options(f, torch.zeros_like(x), x, jumps, batch_dims=1)
    alone = options(f, torch.zeros_like(x[1:2]), x[1:2], jumps[1:2], batch_dims=1)
    assert together.converged.tolist() == [False, True, False]
    assert_close(together.value[1:2], alone.value, 1e-9)
    assert torch.isfinite(together.value).all()


@every_solver
def test_a_start_at_the_fixed_point_takes_no_step(solver):
    x = randn(3, 4, seed=6)
    z = x / (1 - 0.5)
    f = Recorded(lambda z, x: 0.5 * z + x)
    solution = solver()(f, z, x, batch_dims=1)
    assert f.calls == solution.nfe == 1
    assert solution.steps.tolist() == [0, 0, 0]
    assert torch.equal(solution.value, z)


@every_solver
@pytest.mark.parametrize("f", [lambda z: 0.5 * z, lambda z: 0.8 * torch.sin(z)], ids=["linear", "sine"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_is_a_fixed_point_like_any_other(solver, f, dtype):
    """A relative residual does not fall there, so the stop must not depend on it alone."""
    start = torch.tensor([1.0, -0.7, 0.3], dtype=dtype)
    solution = solver(max_steps=300)(f, start)
    assert solution.converged
    assert solution.value.norm() <= torch.finfo(dtype).eps ** 0.75 * start.norm()


@every_solver
def test_a_constant_map_is_solved_in_one_step(solver):
    target = randn(2, 3, seed=7)
    solution = solver()(lambda z: target + 0 * z, torch.zeros(2, 3, dtype=F64), batch_dims=1)
    assert solution.converged.all()
    assert (solution.steps <= 1).all()
    assert_close(solution.value, target, 1e-15)


@pytest.mark.parametrize("solver", [Anderson, Broyden], ids=["anderson", "broyden"])
@pytest.mark.parametrize(("radius", "budget"), [(0.9, 60), (0.99, 250)])
def test_slow_symmetric_maps_are_solved_within_a_budget(solver, radius, budget):
    matrix = symmetric_matrix(torch.linspace(-radius, radius, 64, dtype=F64))
    x = randn(4, 64, seed=1)
    solution = solver(tol=1e-6, max_steps=budget)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert (true_residual(affine(matrix), solution.value, x) <= 1e-6).all()


@pytest.mark.parametrize("solver", [Anderson, Broyden, Newton], ids=["anderson", "broyden", "newton"])
def test_maps_that_plain_iteration_diverges_on_are_solved(solver):
    matrix = symmetric_matrix(torch.tensor([-3.0, -1.5, 0.2, 0.5], dtype=F64))
    x = randn(2, 4, seed=8)
    assert (Picard()(affine(matrix), torch.zeros_like(x), x, batch_dims=1).status != Status.CONVERGED).all()
    solution = solver()(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, affine_answer(matrix, x), 1e-10)


def test_damping_tames_eigenvalues_left_of_minus_one():
    matrix = symmetric_matrix(torch.tensor([-2.5, -1.0, 0.3], dtype=F64))
    x = randn(2, 3, seed=9)
    solution = Picard(damping=0.4)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, affine_answer(matrix, x), 1e-10)


@every_solver
def test_inputs_are_not_written_to_and_no_tape_is_left(solver):
    matrix = matrix_of_norm(4, 0.5).requires_grad_()
    x, start = randn(2, 4, seed=1).requires_grad_(), torch.zeros(2, 4, dtype=F64, requires_grad=True)
    before = x.detach().clone()
    solution = solver(trace=True)(affine(matrix), start, x, batch_dims=1)
    assert not solution.value.requires_grad
    assert not solution.residual.requires_grad
    assert not solution.trace.requires_grad
    assert torch.equal(x, before)
    assert torch.equal(start, torch.zeros(2, 4, dtype=F64))
    assert matrix.grad is None


@every_solver
def test_a_channels_last_state_is_read_without_a_copy_and_comes_back_so(solver):
    x = randn(2, 4, 3, 3, seed=1).to(memory_format=torch.channels_last)
    storages, layouts = [], []

    def f(z, x):
        layouts.append(z.is_contiguous(memory_format=torch.channels_last))
        storages.append(z.untyped_storage().data_ptr())
        return 0.5 * torch.cos(z.roll(1, 1)) + x

    start = torch.zeros_like(x)
    solution = solver()(f, start, x, batch_dims=1)
    expected = solver()(f, torch.zeros(2, 4, 3, 3, dtype=F64), x.contiguous(), batch_dims=1)
    assert storages[0] == start.untyped_storage().data_ptr()
    assert solution.value.is_contiguous(memory_format=torch.channels_last)
    assert layouts[0]
    assert_close(solution.value, expected.value, 1e-12)


def test_an_autocast_map_is_solved_in_float32():
    linear = torch.nn.Linear(8, 8)
    with torch.no_grad():
        linear.weight.mul_(0.5)
    seen = []

    def f(z):
        y = linear(z)
        seen.append((z.dtype, y.dtype))
        return torch.tanh(y)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        solution = Anderson(tol=1e-2)(f, torch.zeros(3, 8), batch_dims=1)
    assert set(seen) == {(torch.float32, torch.bfloat16)}
    assert solution.value.dtype == torch.float32
    assert solution.converged.all()


@every_solver
def test_an_empty_batch_is_solved_at_once(solver):
    solution = solver(trace=True)(lambda z: 0.5 * z, torch.zeros(0, 3), batch_dims=1)
    assert solution.value.shape == (0, 3)
    assert solution.status.shape == solution.residual.shape == solution.steps.shape == (0,)
    assert solution.nfe == 1


@every_solver
def test_systems_without_unknowns_are_solved_at_once(solver):
    solution = solver()(lambda z: 0.5 * z, torch.zeros(3, 0), batch_dims=1)
    assert solution.value.shape == (3, 0)
    assert solution.converged.all()


def test_a_result_of_another_shape_or_structure_is_an_error_that_shows_both():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        Picard()(lambda z: z[:2], torch.zeros(3))
    with pytest.raises(ValueError, match="structure"):
        Picard()(lambda z: (z, z), torch.zeros(3))


def test_fixed_point_takes_any_callable_as_its_solver():
    """SciPy inside NumPy, and a loop of the user's own."""
    optimize = pytest.importorskip("scipy.optimize")

    def scipy_solver(f, z0, x):
        answer = optimize.root(lambda z: f(torch.from_numpy(z), x).numpy() - z, z0.numpy(), tol=1e-13)
        return torch.from_numpy(answer.x)

    def loop(f, z0, x):
        for _ in range(200):
            z0 = f(z0, x)
        return z0

    def f(z, x):
        return 0.5 * torch.cos(z) + x

    x = randn(3, seed=1).requires_grad_()
    expected = fixed_point(f, torch.zeros(3, dtype=F64), x)
    (slope,) = torch.autograd.grad(expected.sum(), x)
    for solver in (scipy_solver, loop):
        z = fixed_point(f, torch.zeros(3, dtype=F64), x, solver=solver)
        assert_close(z, expected, 1e-11)
        assert_close(torch.autograd.grad(z.sum(), x)[0], slope, 1e-10)
