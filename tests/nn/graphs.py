"""Random graphs for the tests of networks on graphs, as edges and as dense matrices."""

import torch
from hypothesis import strategies as st

from deqzoo.nn import Adjacency

F64 = torch.float64


def dense(adjacency, nodes):
    """The matrix A, A[source, target] = weight, parallel edges added up."""
    matrix = torch.zeros(nodes, nodes, dtype=adjacency.weights.dtype)
    return matrix.index_put((adjacency.sources, adjacency.targets), adjacency.weights, accumulate=True)


def random_edges(nodes, count, seed):
    """Edges between different nodes, some of them parallel; there may be nodes without any."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(nodes, (2, count), generator=generator)
    return edges[:, edges[0] != edges[1]]


def random_adjacency(nodes, count, seed):
    """As `random_edges`, with positive weights and loops."""
    generator = torch.Generator().manual_seed(seed)
    sources, targets = torch.randint(nodes, (2, count), generator=generator)
    return Adjacency(sources, targets, torch.rand(count, generator=generator, dtype=F64) + 0.1)


sizes = st.tuples(st.integers(1, 8), st.integers(0, 20), st.integers(0, 10_000))
"""Nodes, edges, seed."""
