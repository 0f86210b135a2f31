"""Points drawn from the exact densities, as a LightningDataModule."""

from typing import Any, ClassVar

import torch

from deqzoo.data.config import DataConfig, DensityDataConfig
from deqzoo.data.densities import DENSITIES
from deqzoo.data.info import DensityInfo
from deqzoo.data.loader import generator
from deqzoo.data.module import TensorData


class DensityData(TensorData):
    """Points of a known density, each part drawn from a seed of its own: the same points always.

    Batches are ((B, 2) float32,).

    Args:
        name: the density; `deqzoo.data.DENSITIES` has them.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.config.DensityDataConfig`.

    Attributes:
        density: the `Density`.

    >>> data = DensityData("moons", batch_size=64, train_size=1000)
    >>> data.setup()
    >>> (points,) = next(iter(data.train_dataloader()))
    >>> points.shape, data.density.log_prob(points).shape
    (torch.Size([64, 2]), torch.Size([64]))
    """

    Config: ClassVar[type[DataConfig]] = DensityDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name not in DENSITIES:
            raise ValueError(f"there is no density {name!r}; valid names are {', '.join(sorted(DENSITIES))}")
        self.density = DENSITIES[name]

    @property
    def info(self) -> DensityInfo:
        """Dimension and name."""
        return DensityInfo(2, self.options.name)

    def setup(self, stage: str | None = None) -> None:
        """Draw the points of all parts."""
        if self.tensors is not None:
            return
        options = self.options
        sizes = {"train": options.train_size, "val": options.val_size, "test": options.test_size}
        drawn = [self.density.sample(n, generator(0, part)) for part, n in enumerate(sizes.values())]
        self.tensors = (torch.cat(drawn),)
        indices = torch.arange(len(self.tensors[0])).split(list(sizes.values()))
        self.parts = dict(zip(sizes, indices, strict=True))


def rows() -> dict[str, list[str]]:
    """The densities' rows of the table of `deqzoo.data.table`."""
    table = {}
    for name, density in DENSITIES.items():
        default = DensityDataConfig()
        parts = f"{default.train_size:,} / {default.val_size:,} / {default.test_size:,}"
        code = f"[`{type(density).__name__}`](../deqzoo/data/densities.py)"
        source = "drawn; [arXiv:1810.01367](https://arxiv.org/abs/1810.01367)"
        table[name] = [f"{density.title}, an exact density", "2", "", parts, "none", code, source, "none needed"]
    return table
