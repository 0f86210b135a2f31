"""The spectral radius of Jacobians with known eigenvalues."""

import math

import pytest
import torch

from deqzoo.implicit import spectral_radius
from tests.implicit.solvers.helpers import F64, matrix_of_norm, orthogonal, randn, symmetric_matrix


@pytest.mark.parametrize("angle", [0.3, math.pi / 2, 2.9])
@pytest.mark.parametrize("radius", [0.9, 1.7])
def test_a_scaled_rotation(angle, radius):
    """Eigenvalues radius exp(+-i angle): the power iteration finds none of them."""
    c, s = math.cos(angle), math.sin(angle)
    rotation = radius * torch.tensor([[c, -s], [s, c]], dtype=F64)
    found = spectral_radius(lambda z: rotation @ z, torch.ones(2, dtype=F64))
    assert found.shape == ()
    assert abs(found.item() - radius) < 1e-12


def test_a_whole_krylov_space_gives_all_eigenvalues():
    matrix = randn(12, 12, seed=1)
    expected = torch.linalg.eigvals(matrix).abs().max()
    assert abs(spectral_radius(lambda z: matrix @ z, torch.zeros(12, dtype=F64), steps=12) - expected) < 1e-9


def test_twenty_products_find_the_outer_eigenvalues_of_a_large_matrix():
    """One pair of complex eigenvalues of modulus .95 stands clear of a disc of radius .5."""
    block = 0.95 * torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    basis = orthogonal(200)
    matrix = basis @ torch.block_diag(block, matrix_of_norm(198, 0.5, seed=2)) @ basis.T
    assert abs(spectral_radius(lambda z: matrix @ z, torch.zeros(200, dtype=F64)).item() - 0.95) < 1e-4


def test_the_products_are_as_many_as_is_said():
    """Twenty where nothing is; no more than unknowns."""
    counts = []

    def f(z):
        counts.append(0)
        made = 2 * z
        if made.requires_grad:
            made.register_hook(lambda g: counts.append(1))
        return made

    for unknowns, steps, expected in ((50, {}, 20), (50, {"steps": 7}, 7), (6, {}, 6)):
        counts.clear()
        spectral_radius(f, torch.ones(unknowns, dtype=F64), **steps)
        assert sum(counts) == expected


def test_a_non_normal_matrix_has_its_radius_not_its_norm():
    matrix = torch.tensor([[0.5, 100.0], [0.0, 0.4]], dtype=F64)
    assert abs(spectral_radius(lambda z: matrix @ z, torch.zeros(2, dtype=F64)).item() - 0.5) < 1e-9


def test_each_system_of_a_batch_has_its_own():
    scale = torch.tensor([0.1, 0.5, 1.5], dtype=F64).unsqueeze(1)
    matrix = symmetric_matrix(torch.linspace(-1, 0.5, 6, dtype=F64))
    found = spectral_radius(lambda z: scale * (z @ matrix), torch.zeros(3, 6, dtype=F64), batch_dims=1)
    assert torch.allclose(found, scale.squeeze(1), atol=1e-9)


def test_it_is_taken_at_the_point():
    z, x = torch.tensor([0.3, -0.8], dtype=F64), torch.tensor([2.0, 0.5], dtype=F64)
    found = spectral_radius(lambda z, x: torch.sin(x * z), z, x)
    assert abs(found - (x * torch.cos(x * z)).abs().max()) < 1e-12


def test_a_pytree_is_one_jacobian():
    """(u, v) -> (.9 v, -.9 u): each leaf alone has the radius 0."""
    found = spectral_radius(lambda z: (0.9 * z[1], -0.9 * z[0]), (torch.ones(3, dtype=F64), torch.ones(3, dtype=F64)))
    assert abs(found.item() - 0.9) < 1e-12


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=["inference_mode", "no_grad"])
def test_without_a_tape(mode):
    rotation = 0.9 * orthogonal(4)
    with mode():
        found = spectral_radius(lambda z: z @ rotation, torch.zeros(2, 4, dtype=F64), batch_dims=1)
    assert torch.allclose(found, torch.full((2,), 0.9, dtype=F64), atol=1e-9)


@pytest.mark.parametrize("f", [torch.zeros_like, lambda z: torch.ones(2, 3)], ids=["zero", "constant"])
def test_a_jacobian_of_zero_has_the_radius_zero(f):
    assert spectral_radius(f, torch.ones(2, 3), batch_dims=1).tolist() == [0, 0]


def test_nilpotent_and_identity():
    shift = torch.diag(torch.ones(3, dtype=F64), 1)
    assert spectral_radius(lambda z: shift @ z, torch.ones(4, dtype=F64)) < 1e-3
    assert abs(spectral_radius(lambda z: z, torch.ones(5, dtype=F64)) - 1) < 1e-12


def test_float32_autocast_and_repeatability():
    linear = torch.nn.Linear(6, 6)
    z = torch.zeros(2, 6)
    exact = torch.linalg.eigvals(linear.weight.detach().double()).abs().max().float()
    plain = spectral_radius(linear, z, batch_dims=1)
    assert torch.allclose(plain, exact.expand(2), rtol=1e-3)
    assert torch.equal(plain, spectral_radius(linear, z, batch_dims=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(spectral_radius(linear, z, batch_dims=1), exact.expand(2), rtol=0.05)


def test_empty_batches_and_empty_systems():
    assert spectral_radius(lambda z: z, torch.zeros(0, 3), batch_dims=1).shape == (0,)
    assert spectral_radius(lambda z: z, torch.zeros(2, 0), batch_dims=1).tolist() == [0, 0]


def test_it_draws_no_global_random_number_and_leaves_no_tape():
    state = torch.get_rng_state()
    matrix = randn(3, 3, seed=1).requires_grad_()
    found = spectral_radius(lambda z: matrix @ z, torch.zeros(3, dtype=F64))
    assert torch.equal(torch.get_rng_state(), state)
    assert not found.requires_grad
