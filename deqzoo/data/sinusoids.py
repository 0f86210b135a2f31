"""Regression tasks: a few points of a sinusoid, from which the rest is to be told."""

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from deqzoo.data.config import DataConfig, SinusoidDataConfig
from deqzoo.data.info import RegressionTaskInfo
from deqzoo.data.loader import generator
from deqzoo.data.module import TensorData

AMPLITUDES, PHASES, INPUTS = (0.1, 5.0), (0.0, math.pi), (-5.0, 5.0)


class SinusoidData(TensorData):
    """Tasks y = a sin(x - p), each with its amplitude a in [.1, 5], its phase p in [0, pi] and its points x in [-5, 5].

    All are uniform, and drawn when the set is set up, each part from a seed of its own: the same tasks always. Batches
    are support inputs and targets (B, shots, 1), query inputs and targets (B, queries, 1), float32.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, sec. 5.1.

    Args:
        name: always ``sinusoid``.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.config.SinusoidDataConfig`.

    >>> data = SinusoidData("sinusoid", batch_size=25, train_size=100)
    >>> data.setup()
    >>> [tuple(part.shape) for part in next(iter(data.train_dataloader()))]
    [(25, 10, 1), (25, 10, 1), (25, 20, 1), (25, 20, 1)]
    """

    Config: ClassVar[type[DataConfig]] = SinusoidDataConfig
    span = INPUTS  # of the inputs

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name != "sinusoid":
            raise ValueError(f"there is no set of regression tasks {name!r}; valid is sinusoid")

    @property
    def info(self) -> RegressionTaskInfo:
        """What a network must know."""
        return RegressionTaskInfo(in_features=1, out_features=1, shots=self.options.shots)

    def setup(self, stage: str | None = None) -> None:
        """Draw the tasks of all parts."""
        if self.tensors is not None:
            return
        options = self.options
        sizes = {"train": options.train_size, "val": options.val_size, "test": options.test_size}
        drawn = [
            draw_sinusoids(n, options.shots, options.queries, generator(0, part))
            for part, n in enumerate(sizes.values())
        ]
        self.tensors = tuple(torch.cat(parts) for parts in zip(*drawn, strict=True))
        indices = torch.arange(sum(sizes.values())).split(list(sizes.values()))
        self.parts = dict(zip(sizes, indices, strict=True))


def draw_sinusoids(n: int, shots: int, queries: int, random: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Support inputs and targets (n, shots, 1), query inputs and targets (n, queries, 1), of n tasks.

    >>> x, y, *_ = draw_sinusoids(3, 10, 20, Generator().manual_seed(0))
    >>> x.shape, bool(y.abs().max() <= 5)
    (torch.Size([3, 10, 1]), True)
    """

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random)

    amplitude, phase = uniform(*AMPLITUDES, n, 1, 1), uniform(*PHASES, n, 1, 1)
    inputs = uniform(*INPUTS, n, shots + queries, 1)
    targets = amplitude * torch.sin(inputs - phase)
    return inputs[:, :shots], targets[:, :shots], inputs[:, shots:], targets[:, shots:]


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = SinusoidDataConfig()
    return {
        "sinusoid": [
            "Sinusoids of random amplitude and phase, a few points each",
            f"{default.shots} + {default.queries}",
            "",
            f"{default.train_size:,} / {default.val_size:,} / {default.test_size:,}",
            "none",
            "[`draw_sinusoids`](../deqzoo/data/sinusoids.py)",
            "drawn; Finn, Abbeel, Levine, [arXiv:1703.03400](https://arxiv.org/abs/1703.03400)",
            "none needed",
        ]
    }
