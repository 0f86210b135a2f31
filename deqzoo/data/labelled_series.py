"""Labelled series with missing values: the sets, and the LightningDataModule over any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqzoo.data.config import DataConfig, LabelledSeriesDataConfig
from deqzoo.data.info import LabelledSeriesInfo
from deqzoo.data.loader import generator
from deqzoo.data.module import PassesData
from deqzoo.data.series_set import Floats
from deqzoo.data.vowels import FRAMES, read_utterances, vowel_parts


@dataclass(frozen=True)
class LabelledSeriesSource:
    """Where a set of labelled series comes from.

    Attributes:
        title: its name in prose.
        sample: a series in words.
        sizes: how many are for training, validation and testing.
        classes: names of the labels.
        times: (T,), common to all series.
        source, licence: where it is published, and on which terms.
        read: (name of the set) -> values (N, T, C), NaN where nothing was measured, and labels (N,).
        parts: (N) -> indices of the series "train", "val" and "test".
    """

    title: str
    sample: str
    sizes: str
    classes: tuple[str, ...]
    times: Floats
    source: str
    licence: str
    read: Callable[[str], tuple[Floats, NDArray[np.int64]]]
    parts: Callable[[int], dict[str, NDArray[np.int64]]]


LABELLED_SERIES_SETS: dict[str, LabelledSeriesSource] = {
    "vowel_speakers": LabelledSeriesSource(
        title="The speaker of Japanese vowels, 30 % of the values dropped at random",
        sample="7 to 29 frames of 12 channels",
        sizes="225 / 45 / 370",
        classes=tuple(f"speaker {number}" for number in range(1, 10)),
        times=np.arange(FRAMES) / 10,
        source="https://archive.ics.uci.edu/dataset/128 (ships with sktime: `pip install 'deqzoo[series]'`)",
        licence="CC BY 4.0",
        read=read_utterances,
        parts=vowel_parts,
    ),
}


class LabelledSeriesBatch(NamedTuple):
    """Some series of a set, (B, T, C), and their labels. All have the same times.

    Attributes:
        times: (B, T), equal rows.
        values: what was measured; 0 where nothing was.
        rank: place of each value in a random order of those measured in its series, over their number: in [0, 1). A
            fraction r of the values is dropped where those with rank below r are. -1 where nothing was measured.
        labels: (B,) int64.
    """

    times: Tensor
    values: Tensor
    rank: Tensor
    labels: Tensor

    def shown(self, dropped: float) -> Tensor:
        """Where values are left after a fraction was dropped, (B, T, C) bool."""
        return (self.rank >= 0) & (self.rank >= dropped)


class LabelledSeriesData(PassesData):
    """Labelled series with missing values; batches are the fields of a `LabelledSeriesBatch`.

    Which values are dropped is drawn once, each by itself: the more is dropped, the less of the same is left. What is
    dropped at the smallest fraction, ``dropped``, is not in the batches at all.

    Args:
        name: the set; `LABELLED_SERIES_SETS` has them.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.config.LabelledSeriesDataConfig`.

    Raises:
        MissingPackageError: the set ships inside a package that is not installed.
    """

    Config: ClassVar[type[DataConfig]] = LabelledSeriesDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name not in LABELLED_SERIES_SETS:
            valid = ", ".join(sorted(LABELLED_SERIES_SETS))
            raise ValueError(f"there is no set of labelled series {name!r}; valid names are {valid}")
        self.spec = LABELLED_SERIES_SETS[name]

    @cached_property
    def series(self) -> LabelledSeriesBatch:
        """The set, read when it is first asked for."""
        values, labels = self.spec.read(self.options.name)
        measured = torch.from_numpy(np.isfinite(values))
        order = torch.rand(measured.shape, generator=generator(0)).masked_fill(~measured, 2.0).flatten(1)
        place = order.argsort(1).argsort(1).view(measured.shape)
        rank = (place / measured.sum((1, 2), keepdim=True)).float()
        rank = torch.where(measured & (rank >= self.options.dropped), rank, -1.0)
        times = torch.tensor(self.spec.times, dtype=torch.float32).expand(len(values), -1)
        kept = torch.tensor(np.nan_to_num(values), dtype=torch.float32).masked_fill(rank < 0, 0.0)
        return LabelledSeriesBatch(times, kept, rank, torch.from_numpy(labels).long())

    @property
    def info(self) -> LabelledSeriesInfo:
        """Channels, statistics of what training sees, classes."""
        train = torch.from_numpy(self.spec.parts(len(self.series.labels))["train"])
        values, seen = self.series.values[train].double(), self.series.rank[train] >= 0
        count = seen.sum((0, 1))
        mean = values.sum((0, 1)) / count
        std = ((values - mean).square() * seen).sum((0, 1)).div(count).sqrt()
        rounded = [tuple(round(value, 4) for value in part.tolist()) for part in (mean, std)]
        return LabelledSeriesInfo(len(mean), rounded[0], rounded[1], self.spec.classes, self.options.dropped)

    def setup(self, stage: str | None = None) -> None:
        """Read the set; whatever the ``stage``, all parts are there afterwards."""
        if self.tensors is None:
            self.tensors = tuple(self.series)
            parts = self.spec.parts(len(self.series.labels))
            self.parts = {part: torch.from_numpy(indices) for part, indices in parts.items()}


def rows() -> dict[str, list[str]]:
    """The sets' rows of the table of `deqzoo.data.table`."""
    table = {}
    for name, spec in LABELLED_SERIES_SETS.items():
        file = spec.read.__module__.rpartition(".")[2]
        code = f"[`{spec.read.__name__}`](../deqzoo/data/{file}.py)"
        classes = str(len(spec.classes))
        table[name] = [spec.title, spec.sample, classes, spec.sizes, "none", code, spec.source, spec.licence]
    return table
