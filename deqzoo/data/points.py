"""Labelled points that are drawn from a known distribution, for toy problems with a known answer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from deqzoo.data.config import DataConfig, PointDataConfig
from deqzoo.data.info import PointInfo
from deqzoo.data.loader import generator
from deqzoo.data.module import TensorData

INNER, GAP, OUTER = 0.5, 1.0, 1.5  # radii r1, r2, r3 of the spheres


@dataclass(frozen=True)
class PointSet:
    """A set of labelled points.

    Attributes:
        title: its name in prose.
        classes: names of the labels 0, 1, ...
        source: where it is described.
        draw: (number of points, dimension, generator) -> points (n, dim), labels (n,).
    """

    title: str
    classes: tuple[str, ...]
    source: str
    draw: Callable[[int, int, Generator], tuple[Tensor, Tensor]]


def draw_spheres(n: int, dim: int, random: Generator) -> tuple[Tensor, Tensor]:
    """Points of a ball, |x| <= r1 (label 0, a third of them), and of the shell r2 <= |x| <= r3 around it (label 1).

    Each part is uniform in volume. No homeomorphism of the space tells them apart by a hyperplane.

    >>> points, labels = draw_spheres(300, 2, Generator().manual_seed(0))
    >>> points[labels == 0].norm(dim=1).max() <= 0.5, points[labels == 1].norm(dim=1).min() >= 1.0
    (tensor(True), tensor(True))
    """
    labels = (torch.arange(n) % 3 > 0).long()
    direction = torch.nn.functional.normalize(torch.randn(n, dim, generator=random), dim=1)
    low = torch.where(labels == 1, GAP**dim, 0.0)
    high = torch.where(labels == 1, OUTER**dim, INNER**dim)
    radius = (low + (high - low) * torch.rand(n, generator=random)) ** (1 / dim)
    return direction * radius.unsqueeze(1), labels


POINT_SETS: dict[str, PointSet] = {
    "spheres": PointSet(
        title="Concentric spheres: a ball, and a shell around it",
        classes=("inner", "outer"),
        source="drawn; Dupont, Doucet, Teh, [arXiv:1904.01681](https://arxiv.org/abs/1904.01681)",
        draw=draw_spheres,
    ),
}


class PointData(TensorData):
    """Labelled points, each part drawn from a seed of its own: the same points always.

    Batches are ((B, dim) float32, (B,) int64).

    Args:
        name: the set; `POINT_SETS` has them.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.config.PointDataConfig`.

    >>> data = PointData("spheres", batch_size=64)
    >>> data.setup()
    >>> points, labels = next(iter(data.train_dataloader()))
    >>> points.shape, data.info.classes
    (torch.Size([64, 2]), ('inner', 'outer'))
    """

    Config: ClassVar[type[DataConfig]] = PointDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name not in POINT_SETS:
            raise ValueError(f"there is no set of points {name!r}; valid names are {', '.join(sorted(POINT_SETS))}")
        self.spec = POINT_SETS[name]

    @property
    def info(self) -> PointInfo:
        """Dimension and classes."""
        return PointInfo(self.options.dim, self.spec.classes)

    def setup(self, stage: str | None = None) -> None:
        """Draw the points of all parts."""
        if self.tensors is not None:
            return
        options = self.options
        sizes = {"train": options.train_size, "val": options.val_size, "test": options.test_size}
        drawn = [self.spec.draw(n, options.dim, generator(0, part)) for part, n in enumerate(sizes.values())]
        self.tensors = torch.cat([points for points, _ in drawn]), torch.cat([labels for _, labels in drawn])
        indices = torch.arange(len(self.tensors[0])).split(list(sizes.values()))
        self.parts = dict(zip(sizes, indices, strict=True))


def rows() -> dict[str, list[str]]:
    """The sets' rows of the table of `deqzoo.data.table`."""
    table = {}
    for name, spec in POINT_SETS.items():
        default = PointDataConfig()
        parts = f"{default.train_size:,} / {default.val_size:,} / {default.test_size:,}"
        code = f"[`{spec.draw.__name__}`](../deqzoo/data/points.py)"
        classes = str(len(spec.classes))
        table[name] = [spec.title, f"{default.dim}", classes, parts, "none", code, spec.source, "none needed"]
    return table
