"""The graph of chains: its edges, its labels, and that the first node of a chain alone tells its class."""

import pytest
import torch
from torch import Generator

from deqzoo.data import ChainData
from deqzoo.data.chains import GraphBatch, draw_chains

SMALL = {"length": 6, "chains_per_class": 3, "train_size": 8, "val_size": 5, "batch_size": 4}


def test_the_first_node_alone_carries_the_class():
    """The same draw under two labellings differs at the first nodes, by the unit vectors of their classes, only."""
    first = torch.arange(72) % 6 == 0
    noises = []
    for classes in (2, 3):
        x, _, labels = draw_chains(6, classes, 12 // classes, 8, 0.1, Generator().manual_seed(0))
        assert labels[first].bincount().tolist() == [12 // classes] * classes
        x[first, labels[first]] -= 1
        noises.append(x)
    torch.testing.assert_close(noises[0], noises[1], rtol=0, atol=1e-6)
    assert 0.09 < noises[0].abs().max() <= 0.1 + 1e-6


def test_each_node_is_linked_to_the_next_of_its_chain():
    x, edges, labels = draw_chains(4, 2, 3, 5, 0.0, Generator())
    assert x.shape == (24, 5)
    assert torch.equal(edges[1], edges[0] + 1)
    assert edges.shape == (2, 18)
    assert torch.equal(edges[0] // 4, edges[1] // 4)
    assert torch.equal(labels[edges[0]], labels[edges[1]])
    assert x.sum().item() == 6  # without noise, one unit vector per chain


def test_parts_are_the_same_always_and_batches_have_the_whole_graph():
    data, other = ChainData("chains", seed=0, **SMALL), ChainData("chains", seed=5, **SMALL)
    for each in (data, other):
        each.setup()
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 8, "val": 5, "test": 23}
    assert torch.cat(list(data.parts.values())).sort().values.tolist() == list(range(36))
    assert all(torch.equal(data.parts[name], other.parts[name]) for name in data.parts)
    assert torch.equal(data.tensors[0], other.tensors[0])
    (batch,) = data.test_dataloader()
    batch = GraphBatch(*batch)
    assert torch.equal(batch.nodes, data.parts["test"])
    assert torch.equal(batch.features, data.tensors[0])
    assert torch.equal(batch.edges, data.tensors[1])
    assert torch.equal(batch.labels, data.tensors[2][batch.nodes])
    assert torch.equal(batch.nodes % 6, data.hops[batch.nodes])


def test_an_epoch_is_several_passes_over_the_labelled_nodes():
    data = ChainData("chains", repeats=3, **SMALL)
    data.setup()
    nodes = torch.cat([batch.nodes for batch in data.train_dataloader()])
    assert nodes.bincount(minlength=36)[data.parts["train"]].tolist() == [3] * 8
    assert data.info.classes == ("class 0", "class 1")
    assert data.info.in_features == 100


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"length": 0}, r"data\.length must be at least 1, got 0"),
        ({"classes": 1}, r"data\.classes=1 must lie between 2 and data\.features=100"),
        ({"classes": 9, "features": 8}, r"data\.classes=9 must lie between 2 and data\.features=8"),
        ({"noise": -0.1}, "must not be negative"),
        ({"train_size": 3900, "val_size": 100}, "leave none of 4000 nodes to test"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValueError, match=told):
        ChainData("chains", **options)


def test_wrong_name():
    with pytest.raises(ValueError, match="no set of chains 'rings'; valid is chains"):
        ChainData("rings")
