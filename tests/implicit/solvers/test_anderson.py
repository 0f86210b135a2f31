"""Anderson acceleration against its definition, and where other implementations break."""

import pytest
import torch

from deqzoo.implicit import Anderson, Picard
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


def reference(f, z, depth: int, damping: float, steps: int):
    """Walker and Ni's algorithm for one system, the least-squares problem solved by the pseudo-inverse."""
    zs, gs = [z], [f(z) - z]
    for _ in range(steps):
        kept = min(depth, len(zs) - 1)
        step = damping * gs[-1]
        if kept:
            dz = torch.stack([zs[-i] - zs[-i - 1] for i in range(1, kept + 1)], dim=1)
            dg = torch.stack([gs[-i] - gs[-i - 1] for i in range(1, kept + 1)], dim=1)
            step = step - (dz + damping * dg) @ (torch.linalg.pinv(dg) @ gs[-1])
        zs.append(zs[-1] + step)
        gs.append(f(zs[-1]) - zs[-1])
    return zs


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("damping", [1.0, 0.6])
def test_the_iterates_are_those_of_the_definition(depth, damping):
    matrix, x = matrix_of_norm(8, 0.9), randn(8, seed=1)
    f = Recorded(lambda z: torch.tanh(matrix @ z + x))
    Anderson(depth=depth, damping=damping, tol=0.0, max_steps=9)(f, torch.zeros(8, dtype=F64))
    expected = reference(f.f, torch.zeros(8, dtype=F64), depth, damping, steps=9)
    for z, e in zip(f.points, expected, strict=True):
        assert_close(z, e, 1e-6)


def test_a_batch_of_systems_has_a_history_each():
    matrix, x = matrix_of_norm(6, 0.9), randn(3, 6, seed=1)
    f = Recorded(lambda z: torch.tanh(z @ matrix.T + x))
    Anderson(depth=3, tol=0.0, max_steps=7)(f, torch.zeros_like(x), batch_dims=1)
    for i in range(3):
        alone = lambda z, i=i: torch.tanh(matrix @ z + x[i])  # noqa: E731
        expected = reference(alone, torch.zeros(6, dtype=F64), depth=3, damping=1.0, steps=7)
        assert_close(f.points[-1][i], expected[-1], 1e-6)


def test_depth_of_the_dimension_ends_a_linear_problem():
    """On a linear map Anderson is GMRES: n + 1 evaluations, and one for the answer."""
    matrix, x = matrix_of_norm(5, 0.95), randn(2, 5, seed=1)
    solution = Anderson(depth=5, tol=1e-9)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert solution.nfe <= 5 + 3


def test_a_scaled_rotation_is_solved():
    """Complex eigenvalues of modulus .99."""
    matrix, x = 0.99 * orthogonal(10), randn(2, 10, seed=1)
    solution = Anderson(depth=10, max_steps=200)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert_close(solution.value, affine_answer(matrix, x), 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_ridge_does_not_depend_on_the_size_of_the_state(dtype, scale):
    """Same iterations, to rounding, for a problem and its multiple."""
    matrix, x = matrix_of_norm(16, 0.9, dtype=dtype), randn(2, 16, seed=1, dtype=dtype)
    solver = Anderson(tol=1e-5)
    plain = solver(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    scaled = solver(affine(matrix), torch.zeros_like(x), scale * x, batch_dims=1)
    assert plain.converged.all()
    assert scaled.converged.all()
    assert abs(scaled.nfe - plain.nfe) <= 1
    assert_close(scaled.value / scale, plain.value, 1e-3 if dtype == torch.float32 else 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tight_tolerance_is_reached_in_fewer_evaluations_than_by_plain_iteration(dtype):
    matrix = symmetric_matrix(torch.linspace(-0.9, 0.9, 64, dtype=F64)).to(dtype)
    x = randn(4, 64, seed=1, dtype=dtype)
    arguments = (affine(matrix), torch.zeros_like(x), x)
    anderson = Anderson(max_steps=1000)(*arguments, batch_dims=1)
    picard = Picard(max_steps=1000)(*arguments, batch_dims=1)
    assert anderson.converged.all()
    assert picard.converged.all()
    assert anderson.nfe < picard.nfe / 2


def test_a_direction_without_change_gives_no_nan():
    """A sample at its fixed point, one whose residual is constant, and one that moves along a line."""
    kind = torch.tensor([[0], [1], [2]])

    def f(z, kind):
        return torch.where(kind == 0, z, torch.where(kind == 1, z + 1, 0.5 * z + 1))

    solution = Anderson(max_steps=30, trace=True)(f, torch.zeros(3, 4, dtype=F64), kind, batch_dims=1)
    assert solution.converged[[0, 2]].all()
    assert torch.isfinite(solution.value).all()
    assert_close(solution.value[2], torch.full((4,), 2.0, dtype=F64), 1e-10)


@pytest.mark.parametrize("depth", [1, 3, 6, 20])
def test_every_depth_converges(depth):
    matrix, x = matrix_of_norm(30, 0.9), randn(3, 30, seed=1)
    solution = Anderson(depth=depth, max_steps=300)(affine(matrix), torch.zeros_like(x), x, batch_dims=1)
    assert solution.converged.all()
    assert (true_residual(affine(matrix), solution.value, x) < 2e-12).all()


def test_memory_is_bounded_by_the_depth():
    """Two depth copies of the state, whatever the steps; the rest is a few temporaries."""
    matrix, x = matrix_of_norm(200, 0.95), randn(2, 200, seed=1)
    state = x.numel() * x.element_size()
    peaks = []
    for max_steps in (20, 80):
        with PeakBytes() as peak:
            Anderson(depth=3, tol=0.0, max_steps=max_steps, patience=1000)(
                affine(matrix), torch.zeros_like(x), x, batch_dims=1
            )
        peaks.append(peak.peak)
    assert abs(peaks[0] - peaks[1]) <= 2 * state  # the best iterate may be another than the present one
    assert max(peaks) < (2 * 3 + 20) * state


def test_damping_scales_the_first_step():
    f = Recorded(lambda z: 0.5 * z + 1)
    Anderson(damping=0.25, max_steps=1)(f, torch.zeros(2, dtype=F64))
    assert torch.equal(f.points[1], torch.full((2,), 0.25, dtype=F64))


def test_a_large_ridge_falls_back_to_plain_iteration():
    f, g = Recorded(lambda z: torch.cos(z) / 2), Recorded(lambda z: torch.cos(z) / 2)
    Anderson(ridge=1e12, max_steps=5, tol=0.0)(f, torch.zeros(2, dtype=F64))
    Picard(max_steps=5, tol=0.0)(g, torch.zeros(2, dtype=F64))
    for a, b in zip(f.points, g.points, strict=True):
        assert torch.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("depth", [0, -1])
def test_a_depth_below_one_is_an_error(depth):
    with pytest.raises(ValueError, match="depth >= 1"):
        Anderson(depth=depth)
