"""Matrices with a structure against themselves written out: products, solves, transposes, derivatives."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from deqzoo.implicit import (
    GMRES,
    BlockDiagonal,
    Diagonal,
    Kronecker,
    LowRankPlusDiagonal,
    Tridiagonal,
)

F64 = torch.float64


def draw(*shape):
    return torch.randn(shape, dtype=F64)


def parts(name, batch=()):
    """The class, its tensors and n."""
    if name == "diagonal":
        return Diagonal, (draw(*batch, 6).abs() + 1,), 6
    if name.startswith("tridiagonal"):
        n = int(name.split()[-1])
        return Tridiagonal, (draw(*batch, n - 1).tanh(), draw(*batch, n).abs() + 2.5, draw(*batch, n - 1).tanh()), n
    if name == "blocks":
        return BlockDiagonal, (draw(*batch, 2, 3, 3) + 4 * torch.eye(3, dtype=F64),), 6
    if name == "low rank":
        return LowRankPlusDiagonal, (draw(*batch, 6).abs() + 1, 0.3 * draw(*batch, 6, 2), 0.3 * draw(*batch, 6, 2)), 6
    return (
        Kronecker,
        (draw(*batch, 2, 2) + 3 * torch.eye(2, dtype=F64), draw(*batch, 3, 3) + 4 * torch.eye(3, dtype=F64)),
        6,
    )


NAMES = [
    "diagonal",
    "tridiagonal 1",
    "tridiagonal 2",
    "tridiagonal 7",
    "tridiagonal 8",
    "blocks",
    "low rank",
    "kronecker",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_it_is_its_dense_matrix(name, batch):
    kind, tensors, n = parts(name, batch)
    matrix = kind(*tensors)
    dense = matrix.to_dense(n)
    assert dense.shape == (*batch, n, n)
    x = draw(*batch, n)
    image = (dense @ x.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(matrix.times(x), image)
    torch.testing.assert_close(matrix.solve(image), x)
    torch.testing.assert_close(matrix.T.to_dense(n), dense.mT)
    torch.testing.assert_close(matrix.T.solve((dense.mT @ x.unsqueeze(-1)).squeeze(-1)), x)


def test_kronecker_is_that_of_torch():
    kind, (left, right), n = parts("kronecker")
    torch.testing.assert_close(kind(left, right).to_dense(n), torch.kron(left, right))


@pytest.mark.parametrize("name", ["diagonal", "tridiagonal 5", "blocks", "low rank", "kronecker"])
def test_derivatives_of_a_solve(name):
    kind, tensors, n = parts(name)
    leaves = [t.requires_grad_() for t in (*tensors, draw(n))]
    assert gradcheck(lambda *given: kind(*given[:-1]).solve(given[-1]), leaves, check_forward_ad=True)
    if name in ("diagonal", "tridiagonal 5"):
        assert gradgradcheck(lambda *given: kind(*given[:-1]).solve(given[-1]), leaves)
    batch = torch.stack([leaves[-1].detach(), torch.ones(n, dtype=F64)])
    together = torch.func.vmap(lambda b: kind(*(t.detach() for t in tensors)).solve(b))(batch)
    torch.testing.assert_close(together[1], kind(*tensors).solve(batch[1]).detach())


@pytest.mark.parametrize("name", NAMES)
def test_as_an_operator_any_solver_takes_a_step(name):
    kind, tensors, n = parts(name)
    operator, b = kind(*tensors).as_operator(), draw(1, n)
    for solved in (operator, operator.T):
        found = GMRES()(solved, b)
        assert found.converged.all()
        assert found.steps.max() <= 2
        torch.testing.assert_close(solved.mv(found.value), b)
