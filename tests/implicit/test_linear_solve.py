"""linear_solve against the inverse: values, derivatives in every mode, factors used again, singular matrices."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import NonConvergenceWarning, linear_solve

F64 = torch.float64


def system(*batch, n=3):
    A = torch.randn(*batch, n, n, dtype=F64) + 4 * torch.eye(n, dtype=F64)
    return A.requires_grad_(), torch.randn(*batch, n, dtype=F64).requires_grad_()


@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_values_and_derivatives(batch):
    A, b = system(*batch)
    torch.testing.assert_close(linear_solve(A, b), (torch.linalg.inv(A) @ b.unsqueeze(-1)).squeeze(-1))
    assert gradcheck(linear_solve, (A, b), check_forward_ad=True, check_batched_grad=True)
    if not batch:
        assert gradgradcheck(linear_solve, (A, b))


def test_a_definite_matrix():
    def solve(M, b):
        return linear_solve(M @ M.mT + torch.eye(3, dtype=F64), b, tags=("positive_definite",))

    assert gradcheck(solve, system(2))


def test_a_matrix_without_batch_axes_is_shared_and_factorised_once(monkeypatch):
    A, _ = system()
    b = torch.randn(5, 3, dtype=F64, requires_grad=True)
    shapes, factor = [], torch.linalg.lu_factor_ex
    monkeypatch.setattr(torch.linalg, "lu_factor_ex", lambda A: (shapes.append(A.shape), factor(A))[1])
    x = linear_solve(A, b)
    gradients = torch.autograd.grad(x.square().sum(), (A, b))
    assert shapes == [(3, 3)]  # in the backward, too
    exact = b @ torch.linalg.inv(A).mT
    for found, theirs in zip(gradients, torch.autograd.grad(exact.square().sum(), (A, b)), strict=True):
        torch.testing.assert_close(found, theirs)


def test_under_torch_func():
    A, b = (t.detach() for t in system(4))
    torch.testing.assert_close(torch.func.vmap(linear_solve)(A, b), linear_solve(A, b))
    hessian = torch.func.hessian(lambda A: linear_solve(A, b[0]).sum())(A[0])
    exact = torch.func.hessian(lambda A: (torch.linalg.inv(A) @ b[0]).sum())(A[0])
    torch.testing.assert_close(hessian, exact)


def test_a_singular_matrix_is_told_and_leaves_the_others_alone():
    A = torch.stack([torch.ones(2, 2, dtype=F64), torch.eye(2, dtype=F64)])
    b = torch.tensor([[2.0, 0.0], [3.0, 4.0]], dtype=F64)
    with pytest.warns(NonConvergenceWarning, match="linear solve: 1 of 2"):
        x = linear_solve(A, b)
    torch.testing.assert_close(x, torch.tensor([[0.5, 0.5], [3.0, 4.0]], dtype=F64))


def test_bad_input_is_told():
    with pytest.raises(ValueError, match="A and b must have shapes"):
        linear_solve(torch.eye(2), torch.ones(3))
    with pytest.raises(ValueError, match="unknown operator tag"):
        linear_solve(torch.eye(2), torch.ones(2), tags=("definite",))
