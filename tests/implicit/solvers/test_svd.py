"""The linear solver SVD against the pseudo-inverse."""

import math

import torch

from deqzoo.implicit import SVD, Implicit, LinearOperator, Status, root

F64 = torch.float64


def test_it_is_the_pseudo_inverse():
    full = torch.randn(2, 4, 4, dtype=F64)
    singular = full[:, :, :3] @ torch.randn(2, 3, 4, dtype=F64)
    b = torch.randn(2, 4, dtype=F64)
    for matrix, status in ((full, Status.CONVERGED), (singular, Status.STALLED)):
        found = SVD()(LinearOperator.from_matrix(matrix), b)
        assert (found.status == status).all()
        assert found.nfe == 5, "a product for each column of the matrix, and one for the residual"
        torch.testing.assert_close(found.value, (torch.linalg.pinv(matrix) @ b.unsqueeze(-1)).squeeze(-1))


def test_a_cutoff_leaves_small_singular_values_out():
    matrix = torch.diag(torch.tensor([1.0, 1e-6], dtype=F64))
    found = SVD(cutoff=1e-3)(LinearOperator.from_matrix(matrix), torch.ones(1, 2, dtype=F64))
    torch.testing.assert_close(found.value, torch.tensor([[1.0, 0.0]], dtype=F64))


def test_bad_rows_leave_the_others_alone():
    matrix = torch.eye(2, dtype=F64).repeat(3, 1, 1)
    matrix[1, 0, 0] = math.nan
    b = torch.tensor([[1.0, 2.0], [1.0, 2.0], [math.inf, 0.0]], dtype=F64)
    found = SVD()(LinearOperator.from_matrix(matrix), b)
    assert found.status.tolist() == [0, Status.DIVERGED, Status.DIVERGED]
    torch.testing.assert_close(found.value[0], b[0])


def test_as_the_solver_of_an_adjoint():
    a = torch.tensor([2.0, 3.0], dtype=F64, requires_grad=True)
    y = root(lambda y, a: y**2 - a, torch.ones(2, dtype=F64), a, adjoint=Implicit("svd"))
    torch.testing.assert_close(torch.autograd.grad(y.sum(), a)[0], 1 / (2 * a.detach().sqrt()))
