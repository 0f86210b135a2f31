"""The implicit graph network: its equilibrium and gradients against dense solves, and what keeps it well posed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from deqzoo.implicit import Anderson, Picard
from deqzoo.models import GraphCell, GraphConvolutionNetwork, ImplicitGraphNetwork
from deqzoo.models.graph.network import project_rows
from deqzoo.nn import DEQ, normalized_adjacency, perron_frobenius
from tests.nn.graphs import F64, dense, random_adjacency, random_edges, sizes

SHARP = Anderson(max_steps=1000)


def cell_of(features, seed, kappa=0.8, eigenvalue=1.0):
    cell = GraphCell(features, kappa).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        cell.weight.copy_(torch.randn(features, features, dtype=F64, generator=generator))
    cell.project(eigenvalue)
    return cell


def network_of(features=3, hidden=4):
    torch.manual_seed(0)
    network = ImplicitGraphNetwork(features, ["a", "b"], hidden=hidden, kappa=0.8, solver=SHARP).double()
    torch.nn.init.normal_(network.deq.cell.weight)
    network.project()
    return network


# --- the projection ---


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 5), st.integers(0, 10_000))
@settings(max_examples=60)
def test_projection_is_the_nearest_matrix(rows, columns, radius, seed):
    """Nearest in a convex set: no direction to any of its corners points towards the matrix."""
    matrix = torch.randn(rows, columns, dtype=F64, generator=torch.Generator().manual_seed(seed))
    found = project_rows(matrix, radius)
    assert (found.abs().sum(1) <= radius + 1e-12).all()
    corners = radius * torch.cat([torch.eye(columns, dtype=F64), -torch.eye(columns, dtype=F64)])
    for row, projected in zip(matrix, found, strict=True):
        assert ((corners - projected) @ (row - projected)).max() <= 1e-10


def test_projection_against_a_search_over_thresholds():
    matrix = torch.randn(50, 7, dtype=F64)
    low, high = torch.zeros(50, 1, dtype=F64), matrix.abs().amax(1, keepdim=True)
    for _ in range(60):
        middle = (low + high) / 2
        outside = (matrix.abs() - middle).clamp(min=0).sum(1, keepdim=True) > 1.3
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    searched = matrix.sign() * (matrix.abs() - high).clamp(min=0)
    inside = matrix.abs().sum(1, keepdim=True) <= 1.3
    torch.testing.assert_close(project_rows(matrix, 1.3), torch.where(inside, matrix, searched))


def test_projection_leaves_what_is_inside_and_what_it_gave():
    matrix = torch.tensor([[0.3, -0.2, 0.0], [2.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    found = project_rows(matrix, 0.9)
    assert torch.equal(found[[0, 2]], matrix[[0, 2]])
    torch.testing.assert_close(found[1], torch.full((3,), 0.3))
    torch.testing.assert_close(project_rows(found, 0.9), found)
    with pytest.raises(ValueError, match="radius must be positive"):
        project_rows(matrix, 0.0)


# --- well-posedness ---


@given(sizes)
@settings(max_examples=30)
def test_projected_cell_is_a_contraction(size):
    """In the norm max |X_ij| / v_ij, where v = 1 + A^T v |W|^T is positive; by the factor that v tells."""
    nodes, count, seed = size
    adjacency = random_adjacency(nodes, count, seed)
    cell = cell_of(3, seed, kappa=0.9, eigenvalue=perron_frobenius(adjacency, nodes))
    product = torch.kron(dense(adjacency, nodes).T.contiguous(), cell.weight.detach().abs())
    v = torch.linalg.solve(torch.eye(3 * nodes, dtype=F64) - product, torch.ones(3 * nodes, dtype=F64))
    assert (v >= 1 - 1e-12).all()
    factor = (product @ v / v).max()
    assert factor < 1
    injection, x, y = torch.randn(3, nodes, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))
    before = ((x - y).abs().flatten() / v).max()
    difference = cell(x, (injection, adjacency)) - cell(y, (injection, adjacency))
    assert (difference.abs().flatten() / v).max() <= factor * before + 1e-12


@given(sizes)
@settings(max_examples=15)
def test_equilibrium_does_not_depend_on_the_start(size):
    nodes, count, seed = size
    adjacency = normalized_adjacency(random_edges(nodes, count, seed), nodes, F64)
    deq = DEQ(cell_of(3, seed), solver=Picard(max_steps=1000), batch_dims=0, on_failure="raise")
    injection, start = torch.randn(2, nodes, 3, dtype=F64, generator=torch.Generator().manual_seed(seed))
    inputs = injection, adjacency
    torch.testing.assert_close(deq(inputs), deq(inputs, 10 * start), rtol=0, atol=1e-9)


def test_a_cell_starts_at_the_border_and_training_out_of_it_is_undone():
    cell = GraphCell(5, kappa=0.9)
    assert torch.equal(cell.weight, 0.9 * torch.eye(5))
    cell.project()
    assert torch.equal(cell.weight, 0.9 * torch.eye(5))
    torch.nn.init.normal_(cell.weight)
    cell.project(eigenvalue=2.0)
    torch.testing.assert_close(cell.weight.abs().sum(1).max(), torch.tensor(0.45))
    wild = copy.deepcopy(cell)
    torch.nn.init.normal_(wild.weight)
    before = wild.weight.clone()
    wild.project(eigenvalue=0.0)  # no cycles: the recursion ends by itself
    assert torch.equal(wild.weight, before)
    with pytest.raises(ValueError, match=r"kappa must lie in \(0, 1\), got 1"):
        GraphCell(5, kappa=1.0)


# --- the equilibrium and its gradient ---


def test_equilibrium_of_a_linear_cell_is_the_dense_solution():
    """Nothing is negative, so that the relu does nothing."""
    nodes, adjacency = 6, normalized_adjacency(random_edges(6, 10, seed=1), 6, F64)
    cell = cell_of(3, seed=0)
    with torch.no_grad():
        cell.weight.abs_()
    injection = torch.rand(nodes, 3, dtype=F64)
    deq = DEQ(cell, solver=SHARP, batch_dims=0, on_failure="raise")
    x = deq((injection, adjacency))
    matrix = torch.kron(dense(adjacency, nodes).T.contiguous(), cell.weight.detach())
    expected = torch.linalg.solve(torch.eye(18, dtype=F64) - matrix, injection.flatten())
    torch.testing.assert_close(x.flatten(), expected, rtol=1e-9, atol=1e-9)
    assert deq.solution.status.shape == ()


def test_gradient_is_that_of_the_dense_implicit_function_theorem():
    nodes, edges = 6, random_edges(6, 10, seed=2)
    network, features = network_of(), torch.randn(6, 3, dtype=F64, requires_grad=True)
    adjacency = normalized_adjacency(edges, nodes, F64)
    weights = torch.randn(nodes, 2, dtype=F64)
    ours = torch.autograd.grad((network(features, edges) * weights).sum(), [features, *network.parameters()])

    cell, start = network.deq.cell, torch.zeros(nodes, 4, dtype=F64)
    x = start
    for _ in range(2000):
        x = cell(x, (network.injection(features).detach(), adjacency)).detach()
    jacobian = torch.func.jacrev(lambda x: cell(x, (network.injection(features), adjacency)))(x).reshape(24, 24)
    assert 0 < (x > 0).double().mean() < 1  # the relu is at work
    cotangent = (weights @ network.head.weight).flatten()
    adjoint = torch.linalg.solve((torch.eye(24, dtype=F64) - jacobian).T, cotangent).reshape(nodes, 4)
    inside = (cell(x, (network.injection(features), adjacency)) * adjoint.detach()).sum()
    outside = (network.head(x) * weights).sum()
    expected = torch.autograd.grad(inside + outside, [features, *network.parameters()], allow_unused=True)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_gradcheck_in_features_and_weights():
    edges, network = random_edges(3, 5, seed=3), network_of(features=2, hidden=2)
    names = [name for name, _ in network.named_parameters()]

    def logits(features, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(network, state, (features, edges))

    features = torch.randn(3, 2, dtype=F64, requires_grad=True)
    given_ = [p.detach().clone().requires_grad_() for p in network.parameters()]
    assert gradcheck(logits, (features, *given_), check_forward_ad=True, atol=1e-6)


# --- graphs ---


@given(sizes)
@settings(max_examples=15)
def test_nodes_may_be_renamed(size):
    nodes, count, seed = size
    generator = torch.Generator().manual_seed(seed)
    edges, order = random_edges(nodes, count, seed), torch.randperm(nodes, generator=generator)
    features = torch.randn(nodes, 3, dtype=F64, generator=generator)
    for network in (network_of(), GraphConvolutionNetwork(3, ["a", "b"], hidden=4, depth=3).double()):
        renamed = network(features[order], order.argsort()[edges])
        torch.testing.assert_close(renamed, network(features, edges)[order], rtol=0, atol=1e-9)


def test_components_of_a_graph_are_graphs_of_their_own():
    """An isolated node among them: its state is the equilibrium of x = relu(W x + b)."""
    first, second = random_edges(4, 6, seed=4), random_edges(5, 8, seed=5)
    features, network = torch.randn(10, 3, dtype=F64), network_of()
    together = network(features, torch.cat([first, second + 4], 1))
    torch.testing.assert_close(together[:4], network(features[:4], first), rtol=0, atol=1e-9)
    torch.testing.assert_close(together[4:9], network(features[4:9], second), rtol=0, atol=1e-9)
    x, injection = torch.zeros(4, dtype=F64), network.injection(features[9])
    for _ in range(1000):
        x = torch.relu(network.deq.cell.weight @ x + injection)
    torch.testing.assert_close(together[9], network.head(x), rtol=0, atol=1e-9)
    alone = network(features[9:], torch.zeros(2, 0, dtype=torch.int64))
    torch.testing.assert_close(together[9:], alone, rtol=0, atol=1e-9)


def test_the_end_of_a_chain_feels_its_beginning_in_an_equilibrium_alone():
    chain = torch.stack([torch.arange(30), torch.arange(1, 31)])
    features = torch.rand(31, 3, dtype=F64, requires_grad=True)
    implicit = ImplicitGraphNetwork(3, ["a", "b"], hidden=4, kappa=0.8, solver=SHARP).double()
    explicit = GraphConvolutionNetwork(3, ["a", "b"], hidden=4, depth=5).double()
    with torch.no_grad():  # no state is zero
        for parameter in (*implicit.injection.parameters(), *explicit.convolutions.parameters()):
            parameter.abs_()
    reached = torch.autograd.grad(implicit(features, chain)[30].sum(), features)[0].abs().amax(1)
    assert (reached > 0).all()
    reached = torch.autograd.grad(explicit(features, chain)[30].sum(), features)[0].abs().amax(1)
    assert reached.nonzero().flatten().tolist() == list(range(25, 31))
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        GraphConvolutionNetwork(3, ["a"], depth=0)


@pytest.mark.parametrize("make", [lambda: network_of(), lambda: GraphConvolutionNetwork(3, ["a", "b"], hidden=4)])
def test_networks_run_under_autocast(make):
    network, edges = make().float(), random_edges(6, 9, 1)
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    exact = network(features, edges)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(features, edges)
    logits.float().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    # bfloat16 has three digits; the equilibrium amplifies what is lost by up to 1 / (1 - kappa) = 5.
    torch.testing.assert_close(logits.float(), exact, rtol=0, atol=0.05 * exact.abs().max().item())


def test_projection_of_rows_beside_which_the_radius_is_lost_in_float32():
    huge = torch.tensor([[1e9, 0.0], [3e7, 2.0]])
    torch.testing.assert_close(project_rows(huge, 0.99), torch.tensor([[0.99, 0.0], [0.99, 0.0]]), rtol=1e-3, atol=0)
