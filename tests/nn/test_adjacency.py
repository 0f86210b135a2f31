"""Adjacencies against dense matrices: normalisation, products, the Perron-Frobenius eigenvalue."""

import pytest
import torch
from hypothesis import given, settings
from torch.autograd import gradcheck

from deqzoo.nn import Adjacency, normalized_adjacency, perron_frobenius, propagate
from tests.nn.graphs import F64, dense, random_adjacency, random_edges, sizes


def largest_eigenvalue(matrix):
    return torch.linalg.eigvals(matrix).abs().max().item()


@given(sizes)
@settings(max_examples=40)
def test_normalisation_is_that_of_the_dense_matrix(size):
    nodes, count, seed = size
    edges = random_edges(nodes, count, seed)
    plain = dense(Adjacency(*edges, torch.ones(edges.shape[1], dtype=F64)), nodes) + torch.eye(nodes, dtype=F64)
    expected = plain / plain.sum(1, keepdim=True).sqrt() / plain.sum(0, keepdim=True).sqrt()
    ours = dense(normalized_adjacency(edges, nodes, F64), nodes)
    torch.testing.assert_close(ours, expected)
    assert torch.linalg.matrix_norm(ours, 2) <= 1 + 1e-12
    assert largest_eigenvalue(ours) <= 1 + 1e-6
    undirected = torch.cat([edges, edges.flip(0)], 1)
    assert largest_eigenvalue(dense(normalized_adjacency(undirected, nodes, F64), nodes)) == pytest.approx(1)


@given(sizes)
@settings(max_examples=25)
def test_product_is_that_of_the_dense_matrix(size):
    nodes, count, seed = size
    adjacency, x = random_adjacency(nodes, count, seed), torch.randn(nodes, 3, dtype=F64)
    torch.testing.assert_close(propagate(x, adjacency), dense(adjacency, nodes).T @ x)


def test_product_has_derivatives_in_states_and_weights_in_every_mode():
    adjacency, x = random_adjacency(5, 9, seed=0), torch.randn(5, 2, dtype=F64, requires_grad=True)

    def product(x, weights):
        return propagate(x, adjacency._replace(weights=weights))

    weights = adjacency.weights.requires_grad_()
    assert gradcheck(product, (x, weights), check_forward_ad=True, check_batched_grad=True)
    hessian = torch.func.hessian(lambda x: propagate(x, adjacency).square().sum())(x.detach()).reshape(10, 10)
    matrix = torch.kron(dense(adjacency, 5).T.contiguous(), torch.eye(2, dtype=F64))
    torch.testing.assert_close(hessian, 2 * matrix.T @ matrix)


@pytest.mark.parametrize("seed", range(5))
def test_eigenvalue_of_a_strongly_connected_graph_is_that_of_the_dense_matrix(seed):
    nodes = 7
    ring = torch.stack([torch.arange(nodes), torch.arange(nodes).roll(-1)])
    more = random_adjacency(nodes, 12, seed)
    weights = torch.cat([0.3 * torch.ones(nodes, dtype=F64), more.weights])
    adjacency = Adjacency(*torch.cat([ring, torch.stack(more[:2])], 1), weights)
    expected = largest_eigenvalue(dense(adjacency, nodes))
    assert perron_frobenius(adjacency, nodes) == pytest.approx(expected, rel=1e-6)


@given(sizes)
@settings(max_examples=40)
def test_eigenvalue_is_never_underrated(size):
    nodes, count, seed = size
    adjacency = random_adjacency(nodes, count, seed)
    bound = perron_frobenius(adjacency, nodes, max_steps=300)
    exact = torch.linalg.eigvals(dense(adjacency, nodes)).abs().max().item()
    # Dense eigenvalues of a defective matrix are themselves off by a root of eps.
    assert exact - 0.02 <= bound <= exact + 0.05 * (1 + exact)


def test_eigenvalue_of_a_bipartite_graph_and_of_one_without_cycles():
    pair = Adjacency(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.5, 2.0]))
    assert perron_frobenius(pair, 2) == pytest.approx(1, rel=1e-6)
    way = Adjacency(torch.arange(4), torch.arange(1, 5), torch.ones(4))
    assert 0 <= perron_frobenius(way, 5, max_steps=1000) < 0.01
    nothing = Adjacency(*torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0))
    assert perron_frobenius(nothing, 3) == 0


def test_a_part_that_dies_out_does_not_spoil_the_bound():
    """The state of the first, slower loop falls below the smallest number before the iteration ends."""
    loops = Adjacency(torch.arange(2), torch.arange(2), torch.tensor([1e-3, 1e3]))
    assert perron_frobenius(loops, 2, max_steps=2000) == pytest.approx(1e3)


def test_errors_name_the_mend():
    with pytest.raises(ValueError, match=r"edges must be int64 of shape \(2, E\), got torch.float32 of shape \(2, 3\)"):
        normalized_adjacency(torch.zeros(2, 3), 3)
    with pytest.raises(ValueError, match="weights that are not negative"):
        perron_frobenius(Adjacency(torch.zeros(1).long(), torch.zeros(1).long(), -torch.ones(1)), 1)
