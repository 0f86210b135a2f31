"""Graphs as lists of weighted edges: normalisation, products with the states of the nodes, the largest eigenvalue."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .tensors import check_tensor


class Adjacency(NamedTuple):
    """The matrix A of a directed graph: ``weights[e]`` is A[sources[e], targets[e]], and 0 is elsewhere.

    Parallel edges add up. An undirected edge is two directed ones. Several graphs are one, whose A is block diagonal.

    Attributes:
        sources, targets: (E,) int64, nodes.
        weights: (E,), not negative.
    """

    sources: Tensor
    targets: Tensor
    weights: Tensor


def normalized_adjacency(edges: Tensor, nodes: int, dtype: torch.dtype = torch.float32) -> Adjacency:
    """D_out^-1/2 (A + I) D_in^-1/2, where A counts the edges, and D_out, D_in hold the row and column sums of A + I.

    Its largest singular value is at most 1, and so is its Perron-Frobenius eigenvalue, whatever the graph; of an
    undirected graph the latter is 1. A node without edges keeps its own state, with weight 1.

    Args:
        edges: (2, E) int64, sources and targets; none from a node to itself, as those are added here.
        nodes: number of nodes.
        dtype: of the weights.

    Source: Kipf, Welling, "Semi-Supervised Classification with Graph Convolutional Networks", 2017 (undirected);
    Rossi et al., "Edge Directionality Improves Learning on Heterophilic Graphs", 2023 (directed).

    >>> normalized_adjacency(torch.tensor([[0, 1], [1, 0]]), nodes=3).weights
    tensor([0.5000, 0.5000, 0.5000, 0.5000, 1.0000])
    """
    check_tensor("edges", edges)
    if edges.dim() != 2 or len(edges) != 2 or edges.dtype != torch.int64:
        raise ValueError(f"edges must be int64 of shape (2, E), got {edges.dtype} of shape {tuple(edges.shape)}")
    if edges.numel() and not torch.compiler.is_exporting():  # a program asks for no values
        lowest, highest = torch.stack(edges.aminmax()).tolist()
        if not 0 <= lowest <= highest < nodes:
            raise ValueError(f"edges must join nodes from 0 to {nodes - 1}, got {lowest} to {highest}")
    own = torch.arange(nodes, device=edges.device)
    sources, targets = torch.cat([edges[0], own]), torch.cat([edges[1], own])
    ones = torch.ones_like(sources)  # added up by index, as the host waits for the device in bincount
    out_degrees, in_degrees = (torch.zeros_like(own).index_add(0, ends, ones).to(dtype) for ends in (sources, targets))
    return Adjacency(sources, targets, (out_degrees[sources] * in_degrees[targets]).rsqrt())


def propagate(x: Tensor, adjacency: Adjacency) -> Tensor:
    """A^T x: what each node's incoming edges bring, of the shape of x (nodes, features).

    Gathered and added by index, as the products of `torch.sparse` have no forward mode and no Hessian, and the
    implicit core differentiates in every mode.

    >>> chain = Adjacency(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([0.5, 0.5]))
    >>> propagate(torch.tensor([[1.0], [2.0], [3.0]]), chain).flatten()
    tensor([0.0000, 0.5000, 1.0000])
    """
    brought = x.index_select(0, adjacency.sources) * adjacency.weights.to(x.dtype).unsqueeze(1)
    return torch.zeros_like(x).index_add(0, adjacency.targets, brought)


@torch.no_grad()
def perron_frobenius(adjacency: Adjacency, nodes: int, tol: float = 1e-6, max_steps: int = 1000) -> float:
    """The largest eigenvalue of A >= 0, from above, by the power iteration v <- (A^T + I) v from v = 1, in float64.

        min_i (A^T v)_i / v_i  <=  lambda_pf(A)  <=  max_i (A^T v)_i / v_i    for any v > 0 (Collatz, Wielandt)

    The least upper bound met is returned: what is kept below kappa / it is well posed, even if the iteration was cut
    off. The two bounds meet where the graph is strongly connected; adding I lets them on a bipartite one, too.

    Args:
        adjacency: A, with weights that are not negative.
        nodes: number of nodes.
        tol: relative gap of the bounds at which the iteration ends.
        max_steps: products with A at most.

    Source: Collatz, "Einschliessungssatz fuer die charakteristischen Zahlen von Matrizen", 1942.

    >>> star = Adjacency(torch.tensor([0, 0, 1, 2]), torch.tensor([1, 2, 0, 0]), torch.full((4,), 0.5))
    >>> round(perron_frobenius(star, nodes=3), 4)  # sqrt(2) / 2
    0.7071
    """
    if bool((adjacency.weights < 0).any()):
        raise ValueError("a Perron-Frobenius eigenvalue needs weights that are not negative")
    adjacency = adjacency._replace(weights=adjacency.weights.double())
    v = adjacency.weights.new_ones(nodes, 1)
    bound = float("inf") if nodes else 0.0
    for _ in range(max_steps if nodes else 0):
        image = propagate(v, adjacency)
        lowest, highest = torch.stack(torch.aminmax(image / v)).tolist()
        bound = min(bound, highest)
        if bound - lowest <= tol * bound:
            break
        v = v + image
        v = (v / v.max()).clamp(min=torch.finfo(v.dtype).tiny)  # any v > 0 bounds: where it dies out, too
    return bound
