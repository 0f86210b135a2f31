"""Orbits of mechanical systems: windows of simulated states, to learn the laws of motion from."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from deqzoo.data.config import DataConfig, OrbitDataConfig
from deqzoo.data.info import OrbitInfo
from deqzoo.data.mechanics import MECHANICS, Mechanics
from deqzoo.data.module import PassesData
from deqzoo.data.series_set import Floats

LENGTH = 51  # states of an orbit
_SEED = 1687


class OrbitData(PassesData):
    """Windows of orbits, without noise; each part has orbits of its own, the same ones always.

    Batches are (states,), (B, window + 1, 2 dim) float32, at equal times. Training has each window of its orbits,
    validation and test the first one of each.

    Args:
        name: the system; `deqzoo.data.mechanics.MECHANICS` has them.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.config.OrbitDataConfig`.

    >>> data = OrbitData("two_body", batch_size=64)
    >>> data.setup()
    >>> (states,) = next(iter(data.train_dataloader()))
    >>> states.shape, len(data.parts["train"]), len(data.parts["test"])
    (torch.Size([64, 4, 8]), 7680, 20)
    """

    Config: ClassVar[type[DataConfig]] = OrbitDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name not in MECHANICS:
            raise ValueError(f"there are no orbits of {name!r}; valid names are {', '.join(sorted(MECHANICS))}")
        if self.options.window >= LENGTH:
            raise ValueError(f"data.window must be less than the {LENGTH} states of an orbit")

    @property
    def system(self) -> Mechanics:
        """What moves."""
        return MECHANICS[self.options.name]

    @property
    def info(self) -> OrbitInfo:
        """The system, and the time between two states."""
        return OrbitInfo(self.options.name, self.system.dim, self.options.spacing)

    @cached_property
    def orbits(self) -> Floats:
        """All of them, (orbits, `LENGTH`, 2 dim), part by part."""
        start = self.system.draw(sum(counts(self.system).values()), np.random.default_rng(_SEED))
        return self.system.simulate(start, self.options.spacing * np.arange(LENGTH))

    def setup(self, stage: str | None = None) -> None:
        """Simulate; whatever the ``stage``, all parts are there afterwards."""
        if self.tensors is not None:
            return
        count = LENGTH - self.options.window
        windows = torch.tensor(self.orbits, dtype=torch.float32).unfold(1, self.options.window + 1, 1).transpose(2, 3)
        self.tensors = (windows.flatten(0, 1).contiguous(),)
        sizes = counts(self.system)
        of_part = torch.arange(len(windows)).split(list(sizes.values()))
        self.parts = {part: orbits * count for part, orbits in zip(sizes, of_part, strict=True)}
        self.parts["train"] = (self.parts["train"][:, None] + torch.arange(count)).flatten()


def counts(system: Mechanics) -> dict[str, int]:
    """Orbits of each part."""
    return {"train": system.orbits, "val": 10, "test": 20}


def rows() -> dict[str, list[str]]:
    """The sets' rows of the table of `deqzoo.data.table`."""
    code = "[`OrbitData`](../deqzoo/data/orbits.py)"
    source = "simulated; after Greydanus et al., [arXiv:1906.01563](https://arxiv.org/abs/1906.01563)"
    return {
        name: [system.title, system.sample, "none", _sizes(system), "none", code, source, "as deqzoo"]
        for name, system in MECHANICS.items()
    }


def _sizes(system: Mechanics) -> str:
    return f"{' / '.join(map(str, counts(system).values()))} orbits"
