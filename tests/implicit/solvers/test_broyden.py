"""Broyden's method against its rank-one updates; its memory grows with the steps taken."""

import pytest
import torch

from deqzoo.implicit import Broyden, Picard
from tests.implicit.solvers.helpers import (
    DTYPES,
    F64,
    PeakBytes,
    Recorded,
    affine,
    affine_answer,
    assert_close,
    matrix_of_norm,
    orthogonal,
    randn,
    symmetric_matrix,
    true_residual,
)


def reference(f, z, steps: int, memory: int | None = None):
    """The textbook's method: the inverse Jacobian of f(z) - z by Sherman-Morrison updates of -I."""
    zs, g, pairs = [z], f(z) - z, []
    for _ in range(steps):
        inverse = -torch.eye(z.numel(), dtype=z.dtype)
        for s, y in pairs:
            moved = inverse @ y
            inverse = inverse + torch.outer(s - moved, s @ inverse) / (s @ moved)
        s = -inverse @ g
        zs.append(zs[-1] + s)
        g_next = f(zs[-1]) - zs[-1]
        pairs = [*pairs, (s, g_next - g)]
        pairs = pairs if memory is None else pairs[-memory:]
        g = g_next
    return zs


@pytest.mark.parametrize("memory", [None, 1, 3, 5])
def test_the_iterates_are_those_of_the_rank_one_updates(memory):
    """With a memory, those of the updates by the last pairs alone, in the order in which they came."""
    matrix, x = matrix_of_norm(8, 0.9), randn(8, seed=1)
    f = Recorded(lambda z: torch.tanh(matrix @ z + x))
    Broyden(tol=0.0, max_steps=9, memory=memory)(f, torch.zeros(8, dtype=F64))
    expected = reference(f.f, torch.zeros(8, dtype=F64), steps=9, memory=memory)
    for z, e in zip(f.points, expected, strict=True):
        assert_close(z, e, 1e-8)


def test_a_batch_of_systems_has_an_approximation_each():
    matrix, x = matrix_of_norm(6, 0.9), randn(3, 6, seed=1)
    f = Recorded(lambda z: torch.tanh(z @ matrix.T + x))
    Broyden(tol=0.0, max_steps=8)(f, torch.zeros_like(x), batch_dims=1)
    for i in range(3):
        expected = reference(lambda z, i=i: torch.tanh(matrix @ z + x[i]), torch.zeros(6, dtype=F64), steps=8)
        assert_close(f.points[-1][i], expected[-1], 1e-8)


def test_a_linear_problem_ends_within_twice_its_dimension():
    """Gay, "Some convergence properties of Broyden's method", 1979."""
    matrix, x = matrix_of_norm(5, 0.9), randn(2, 5, seed=1)
    solution = Broyden(tol=1e-8)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert solution.nfe <= 2 * 5 + 3


def test_memory_grows_with_the_steps_taken_and_not_with_their_limit():
    matrix, x = matrix_of_norm(500, 0.9), randn(2, 500, seed=1)

    def peak(tol, max_steps, memory=None):
        with PeakBytes() as bytes_:
            solution = Broyden(tol=tol, max_steps=max_steps, memory=memory)(
                affine(matrix), torch.zeros_like(x), x, batch_dims=1
            )
        assert solution.converged.all()
        return bytes_.peak, solution.nfe

    state = x.numel() * x.element_size()
    few, nfe_few = peak(1e-2, 50)
    assert peak(1e-2, 100_000) == (few, nfe_few)
    many, nfe_many = peak(1e-11, 100_000)
    assert nfe_many > 3 * nfe_few
    assert few < many
    # Two stores whose capacity doubles: at most 4 rows per step, 6 while one of them is copied.
    assert many < (6 * nfe_many + 20) * state
    bounded, nfe = peak(1e-11, 100_000, memory=5)
    assert nfe > 10
    assert bounded < (2 * 5 + 20) * state


@pytest.mark.parametrize("memory", [1, 2, 5, 10])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_short_memory_converges_without_nan(memory, dtype):
    matrix, x = matrix_of_norm(64, 0.9, dtype=dtype), randn(4, 64, seed=1, dtype=dtype)
    solution = Broyden(memory=memory, trace=True)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert torch.isfinite(solution.trace).all()
    assert solution.converged.all()
    assert solution.nfe > memory + 2, "the memory should have been filled"


def test_a_memory_of_all_steps_and_no_limit_are_the_same():
    matrix, x = matrix_of_norm(20, 0.9), randn(2, 20, seed=1)
    f, g = Recorded(affine(matrix)), Recorded(affine(matrix))
    Broyden(memory=30, max_steps=12, tol=0.0)(f, torch.zeros_like(x), x, batch_dims=1)
    Broyden(max_steps=12, tol=0.0)(g, torch.zeros_like(x), x, batch_dims=1)
    assert torch.equal(torch.stack(f.points), torch.stack(g.points))


def test_a_step_that_changes_nothing_gives_no_nan():
    kind = torch.tensor([[0], [1], [2]])

    def f(z, kind):
        return torch.where(kind == 0, z, torch.where(kind == 1, z + 1, 0.5 * z + 1))

    solution = Broyden(max_steps=30, trace=True)(f, torch.zeros(3, 4, dtype=F64), kind, batch_dims=1)
    assert solution.converged[[0, 2]].all()
    assert torch.isfinite(solution.value).all()
    assert_close(solution.value[2], torch.full((4,), 2.0, dtype=F64), 1e-10)


def test_a_scaled_rotation_is_solved():
    matrix, x = 0.99 * orthogonal(10), randn(2, 10, seed=1)
    solution = Broyden(max_steps=200)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, affine_answer(matrix, x), 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fewer_evaluations_than_plain_iteration_at_the_tightest_tolerance(dtype):
    matrix = symmetric_matrix(torch.linspace(-0.9, 0.9, 64, dtype=F64)).to(dtype)
    x = randn(4, 64, seed=1, dtype=dtype)
    arguments = (affine(matrix), torch.zeros_like(x), x)
    broyden = Broyden(max_steps=1000)(*arguments, batch_dims=1)
    picard = Picard(max_steps=1000)(*arguments, batch_dims=1)
    assert broyden.converged.all()
    assert picard.converged.all()
    assert broyden.nfe < picard.nfe / 1.5
    assert (true_residual(*arguments[:1], broyden.value, x) <= torch.finfo(dtype).eps ** 0.75).all()


@pytest.mark.parametrize("batch", [1, 8])
def test_a_single_sample_does_not_stop_early(batch):
    """The stop is each sample's own: a lone sample meets the tolerance as one of eight does."""
    matrix, x = matrix_of_norm(32, 0.95), randn(8, 32, seed=1)[:batch]
    solution = Broyden(tol=1e-3)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert (true_residual(affine(matrix), solution.value, x) <= 1e-3).all()


@pytest.mark.parametrize("memory", [0, -3])
def test_a_memory_below_one_is_an_error(memory):
    with pytest.raises(ValueError, match="memory >= 1"):
        Broyden(memory=memory)
