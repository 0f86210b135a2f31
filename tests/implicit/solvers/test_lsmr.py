"""LSMR against the pseudo-inverse: square, singular, inconsistent and rectangular systems."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deqzoo.implicit import LSMR, Implicit, LinearOperator, Status, root
from deqzoo.implicit.linear_solvers.lsmr import lsmr

F64 = torch.float64


def matrix(m, n, rank, seed, batch=2):
    """Singular values between 1 and 3."""
    source = torch.Generator().manual_seed(seed)
    U = torch.linalg.qr(torch.randn(batch, m, m, dtype=F64, generator=source))[0][..., :rank]
    V = torch.linalg.qr(torch.randn(batch, n, n, dtype=F64, generator=source))[0][..., :rank]
    return U * torch.linspace(1, 3, rank, dtype=F64) @ V.mT


@given(
    n=st.integers(1, 10),
    missing=st.integers(0, 3),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, F64]),
)
@settings(max_examples=40)
def test_it_finds_the_shortest_least_squares_solution(n, missing, seed, dtype):
    rank = max(n - missing, 1)
    A = matrix(n, n, rank, seed).to(dtype)
    b = torch.randn(2, n, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    found = LSMR()(LinearOperator.from_matrix(A), b)
    assert (found.status == (Status.CONVERGED if rank == n else Status.STALLED)).all()
    exact = (torch.linalg.pinv(A.double(), rtol=1e-4) @ b.double().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found.value.double(), exact, rtol=0, atol=1e-10 if dtype == F64 else 1e-4)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_rectangular_systems(shape):
    A, b = matrix(*shape, 3, 0), torch.randn(2, shape[0], dtype=F64)
    found = lsmr(
        lambda v: (A @ v.unsqueeze(-1)).squeeze(-1), lambda u: (A.mT @ u.unsqueeze(-1)).squeeze(-1), b, 1e-13, 50
    )
    torch.testing.assert_close(found.x, (torch.linalg.pinv(A) @ b.unsqueeze(-1)).squeeze(-1), rtol=0, atol=1e-11)


def test_zero_and_bad_right_hand_sides():
    A = matrix(3, 3, 3, 1, batch=3)
    b = torch.randn(3, 3, dtype=F64)
    b[0], b[1, 0] = 0.0, torch.nan
    found = LSMR()(LinearOperator.from_matrix(A), b)
    assert torch.equal(found.value[0], torch.zeros(3, dtype=F64))
    assert found.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert found.value[1].isnan().all()
    assert LSMR(max_steps=1)(LinearOperator.from_matrix(A), b).status[2] == Status.MAX_STEPS


def test_as_the_solver_of_an_adjoint():
    a = torch.tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    y = root(lambda y, a: y**2 - a, torch.ones(2, dtype=F64), a, adjoint=Implicit("lsmr"))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), a)[0], 1 / (2 * a.sqrt()), rtol=1e-9, atol=0)
