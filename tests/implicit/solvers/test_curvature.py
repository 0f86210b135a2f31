"""Products with Hessians and Gauss-Newton matrices against the dense matrices; extreme eigenvalues."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, vmap

from deqzoo.implicit import LinearOperator, curvature, extreme_eigenvalues, gauss_newton, hessian
from tests.implicit.solvers.helpers import F64, assert_close, randn, symmetric_matrix


def small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()


def flat_loss(network, x, target):
    """The network's loss as a function of one vector of parameters, and that vector."""
    names = [name for name, _ in network.named_parameters()]
    shapes = [p.shape for p in network.parameters()]
    sizes = [p.numel() for p in network.parameters()]

    def model(vector, x=x):
        parts = [part.reshape(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        return functional_call(network, dict(zip(names, parts, strict=True)), (x,))

    return model, lambda vector: torch.nn.functional.cross_entropy(model(vector), target)


def vector_of(network):
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach()


def test_hessian_of_a_network_against_the_dense_one():
    network, x = small_network(), randn(6, 2, seed=1)
    target = torch.tensor([0, 1, 1, 0, 1, 0])
    _, loss = flat_loss(network, x, target)
    parameters = dict(network.named_parameters())
    operator = hessian(
        lambda p: torch.nn.functional.cross_entropy(functional_call(network, p, (x,)), target), parameters
    )
    exact = torch.func.hessian(loss)(vector_of(network))
    assert_close(operator.to_dense(vector_of(network)[None])[0], exact, 1e-12)
    assert not operator.mv(vector_of(network)[None]).requires_grad
    low, high = curvature(loss, vector_of(network), steps=len(exact))
    eigenvalues = torch.linalg.eigvalsh(exact)
    assert_close(torch.stack([low, high]), eigenvalues[[0, -1]], 1e-9)
    assert eigenvalues[0] < 0 < eigenvalues[-1]


def test_gauss_newton_of_a_network_against_the_dense_one():
    network, x = small_network(), randn(6, 2, seed=1)
    target = torch.tensor([0, 1, 1, 0, 1, 0])
    model, _ = flat_loss(network, x, target)
    point = vector_of(network)
    operator = gauss_newton(model, lambda out: torch.nn.functional.cross_entropy(out, target), point)
    jacobian = torch.func.jacrev(model)(point).reshape(12, -1)
    of_loss = torch.func.hessian(lambda out: torch.nn.functional.cross_entropy(out.reshape(6, 2), target))
    exact = jacobian.T @ of_loss(model(point).reshape(-1)) @ jacobian
    assert_close(operator.to_dense(point[None])[0], exact, 1e-12)
    assert torch.linalg.eigvalsh(exact)[0] > -1e-12


def test_systems_of_a_batch_have_their_own():
    """Three quadratics, and Gauss-Newton matrices of three linear models whose outputs are shorter than y."""
    matrices = torch.stack(
        [
            symmetric_matrix(torch.tensor([-1.0, 2.0, top], dtype=F64), seed)
            for seed, top in ((0, 3.0), (1, 5.0), (2, 9.0))
        ]
    )
    y = randn(3, 3, seed=3)
    low, high = curvature(lambda y: torch.einsum("bi,bij,bj->b", y, matrices, y) / 2, y, batch_dims=1, steps=3)
    assert_close(low, -torch.ones(3, dtype=F64), 1e-10)
    assert_close(high, torch.tensor([3.0, 5.0, 9.0], dtype=F64), 1e-10)
    models = randn(3, 2, 3, seed=4)
    operator = gauss_newton(
        lambda y: torch.einsum("bij,bj->bi", models, y), lambda out: out.square().sum(1) / 2, y, batch_dims=1
    )
    assert_close(operator.to_dense(y), models.mT @ models, 1e-12)
    objective = vmap(lambda y, a: y @ a @ y)
    assert_close(hessian(objective, y, matrices, batch_dims=1).to_dense(y), 2 * matrices, 1e-12)


@settings(max_examples=20)
@given(unknowns=st.integers(1, 8), steps=st.integers(1, 12), seed=st.integers(0, 100))
def test_ritz_values_lie_inside_the_spectrum_and_reach_its_ends(unknowns, steps, seed):
    eigenvalues = 3 * randn(unknowns, seed=seed)
    matrix = symmetric_matrix(eigenvalues, seed)
    low, high = extreme_eigenvalues(
        LinearOperator.from_matrix(matrix), torch.zeros(2, unknowns, dtype=F64), steps, seed
    )
    assert (low >= eigenvalues.min() - 1e-9).all()
    assert (high <= eigenvalues.max() + 1e-9).all()
    if steps >= unknowns:
        assert low.tolist() == pytest.approx([eigenvalues.min().item()] * 2, abs=1e-8)
        assert high.tolist() == pytest.approx([eigenvalues.max().item()] * 2, abs=1e-8)


def test_a_krylov_space_that_ends_brings_no_false_zero():
    """Two distinct eigenvalues: the space has two dimensions, however many steps are asked for."""
    matrix = symmetric_matrix(torch.tensor([2.0, 2.0, 2.0, 5.0, 5.0], dtype=F64))
    low, high = extreme_eigenvalues(LinearOperator.from_matrix(matrix), torch.zeros(1, 5, dtype=F64), steps=5)
    assert low.item() == pytest.approx(2.0)
    assert high.item() == pytest.approx(5.0)
    assert extreme_eigenvalues(LinearOperator.from_matrix(matrix), torch.zeros(2, 0), steps=5).low.tolist() == [0, 0]
