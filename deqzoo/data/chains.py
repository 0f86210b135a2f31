"""Chains of Gu et al.: a graph whose nodes are to be told apart by what the first node of their chain alone knows."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from deqzoo.data.config import ChainDataConfig, DataConfig
from deqzoo.data.info import GraphInfo
from deqzoo.data.loader import PassesLoader, TensorLoader, generator
from deqzoo.data.module import TensorData


class GraphBatch(NamedTuple):
    """A whole graph of N nodes, and those of its nodes whose labels are asked for now.

    Attributes:
        features: (N, features).
        edges: (2, E) int64, sources and targets.
        nodes: (B,) int64.
        labels: (B,) int64, of these nodes.
    """

    features: Tensor
    edges: Tensor
    nodes: Tensor
    labels: Tensor


def draw_chains(
    length: int, classes: int, chains_per_class: int, features: int, noise: float, random: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Chains of nodes, each linked to the next: features (N, features), edges (2, E), labels (N,), chain after chain.

    All nodes of a chain have its class. The features are uniform in [-noise, noise]; to those of a chain's first node
    the unit vector of its class is added, and nothing else tells the class.

    Source: Gu et al., "Implicit Graph Neural Networks", 2020, section 6 (two classes, 20 chains each, 100 features).

    >>> x, edges, labels = draw_chains(3, classes=2, chains_per_class=1, features=2, noise=0.0, random=Generator())
    >>> x[:, 0].long(), x[:, 1].long(), labels
    (tensor([1, 0, 0, 0, 0, 0]), tensor([0, 0, 0, 1, 0, 0]), tensor([0, 0, 0, 1, 1, 1]))
    >>> edges
    tensor([[0, 1, 3, 4],
            [1, 2, 4, 5]])
    """
    nodes = torch.arange(length * classes * chains_per_class)
    labels = nodes // (length * chains_per_class)
    x = noise * (2 * torch.rand(len(nodes), features, generator=random) - 1)
    first = nodes[::length]
    x[first, labels[first]] += 1
    sources = nodes[nodes % length < length - 1]
    return x, torch.stack([sources, sources + 1]), labels


class ChainData(TensorData):
    """A graph of chains, drawn from a fixed seed; a batch is a `GraphBatch` of the whole of it.

    Args:
        name: the set: ``chains``.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.config.ChainDataConfig`.

    Attributes:
        hops: (N,), of each node from the first of its chain.

    >>> data = ChainData("chains", length=5)
    >>> data.setup()
    >>> batch = next(iter(data.train_dataloader()))
    >>> batch.features.shape, batch.labels.shape
    (torch.Size([200, 100]), torch.Size([20]))
    """

    Config: ClassVar[type[DataConfig]] = ChainDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name != "chains":
            raise ValueError(f"there is no set of chains {name!r}; valid is chains")

    @property
    def info(self) -> GraphInfo:
        """Features and classes."""
        return GraphInfo(self.options.features, tuple(f"class {label}" for label in range(self.options.classes)))

    @property
    def hops(self) -> Tensor:
        """See the class."""
        options = self.options
        return torch.arange(options.length).repeat(options.classes * options.chains_per_class)

    def setup(self, stage: str | None = None) -> None:
        """Draw the graph and the parts of its nodes."""
        if self.tensors is not None:
            return
        options = self.options
        drawn = options.length, options.classes, options.chains_per_class, options.features, options.noise
        self.tensors = draw_chains(*drawn, generator(0, 0))
        order = torch.randperm(len(self.tensors[0]), generator=generator(0, 1))
        train, val = options.train_size, options.val_size
        self.parts = {"train": order[:train], "val": order[train : train + val], "test": order[train + val :]}

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> TensorLoader:
        """The whole graph with nodes of a part; an epoch of training is ``repeats`` passes over its nodes."""
        assert self.tensors is not None
        repeats = self.options.repeats if train else 1
        features, edges, labels = self.tensors
        nodes = self.parts[part]
        return GraphLoader(features, edges, labels, nodes, batch_size, repeats=repeats, shuffle=train, **options)


class GraphLoader(PassesLoader):
    """Batches of nodes, each with the whole graph: a `GraphBatch`.

    Args:
        features, edges, labels: of the graph.
        indices: (n,) int64, the nodes of this loader.
        batch_size: nodes per batch.
        options: as `PassesLoader` has them.
    """

    def __init__(
        self, features: Tensor, edges: Tensor, labels: Tensor, indices: Tensor, batch_size: int, **options: Any
    ) -> None:
        nodes = torch.arange(len(labels), device=labels.device)
        super().__init__((nodes, labels), indices, batch_size, **options)
        self.features, self.edges = features.to(self.device), edges.to(self.device)

    def _make_batch(self, indices: Tensor) -> GraphBatch:
        return GraphBatch(self.features, self.edges, *super()._make_batch(indices))


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = ChainDataConfig()
    chains = default.classes * default.chains_per_class
    test = default.length * chains - default.train_size - default.val_size
    cells = [
        f"A graph of {chains} chains of {default.length} nodes; the first node of a chain alone tells its class",
        f"a node with {default.features} features",
        str(default.classes),
        f"{default.train_size:,} / {default.val_size:,} / {test:,}",
        "none",
        "[`draw_chains`](../deqzoo/data/chains.py)",
        "drawn; Gu et al., [arXiv:2009.06211](https://arxiv.org/abs/2009.06211), section 6",
        "none needed",
    ]
    return {"chains": cells}
