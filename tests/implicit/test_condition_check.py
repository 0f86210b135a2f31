"""Whether a point is near a solution, by the residual and one product with the transposed Jacobian."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deqzoo.implicit.condition_check import unsatisfied

ALLOWED = 1e-3


def _system(seed: int, scale: float, distance: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(y, F(y), A) of a linear condition F(y) = A (y - solution), at a relative distance from its solution."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(1, 5, dtype=torch.float64, generator=generator)
    A = scale * torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator)).Q
    return y, distance * y @ A.T, A


@given(
    st.integers(0, 1000),
    st.sampled_from([1e-40, 1e-9, 1.0, 1e9, 1e40]),
    st.sampled_from([0.0, 1e-12, 0.5e-3, 2e-3, 1.0]),
)
def test_the_distance_is_that_of_the_solution_whatever_the_scale_of_the_condition(seed, scale, distance):
    y, F, A = _system(seed, scale, distance)
    found = unsatisfied(F, y, lambda u: u @ A, ALLOWED)
    if distance < ALLOWED:
        assert found is None
    else:
        assert found[0].all()
        assert found[1].item() == pytest.approx(distance)


@given(st.integers(0, 1000), st.sampled_from([0.0, 1e-6, 1e-2]), st.sampled_from([0.0, 1e-6, 1e-2]))
def test_each_system_of_a_batch_is_judged_as_it_is_alone(seed, first, second):
    systems = [_system(seed, 1.0, first), _system(seed + 1, 1e-6, second)]
    y, F, A = (torch.cat([system[i].reshape(1, *system[i].shape[-2:]) for system in systems]) for i in range(3))
    found = unsatisfied(F[:, 0], y[:, 0], lambda u: torch.einsum("bi,bij->bj", u, A), ALLOWED)
    alone = [unsatisfied(F, y, lambda u, A=A: u @ A, ALLOWED) is not None for y, F, A in systems]
    assert (found[0].tolist() if found else [False, False]) == alone


def test_a_residual_that_is_not_finite_is_far():
    y, F, A = _system(0, 1.0, 1e-12)
    F[0, 2] = torch.nan
    assert unsatisfied(F, y, lambda u: u @ A, ALLOWED) is not None
