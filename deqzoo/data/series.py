"""Series observed with noise and gaps: the sets, and the LightningDataModule over any of them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deqzoo.data.config import DataConfig, SeriesDataConfig
from deqzoo.data.info import SeriesInfo
from deqzoo.data.loader import generator
from deqzoo.data.module import PassesData
from deqzoo.data.pendulum import simulate_pendulums
from deqzoo.data.series_set import SeriesSet
from deqzoo.data.spirals import read_spirals
from deqzoo.data.vowels import read_vowels


@dataclass(frozen=True)
class SeriesSource:
    """Where a set of series comes from.

    Attributes:
        title: its name in prose.
        sample: a series in words.
        parts: how many are for training, validation and testing.
        source, licence: where it is published, and on which terms.
        read: makes it.
    """

    title: str
    sample: str
    parts: str
    source: str
    licence: str
    read: Callable[[], SeriesSet]


SERIES_SETS: dict[str, SeriesSource] = {
    "spirals": SeriesSource(
        title="Noisy windows of two spirals",
        sample="100 points of 2 channels",
        parts="900 / 100 / 1,000",
        source="made; Chen et al., [arXiv:1806.07366](https://arxiv.org/abs/1806.07366), section 5.1",
        licence="as deqzoo",
        read=read_spirals,
    ),
    "japanese_vowels": SeriesSource(
        title="Japanese vowels, 80 % of the values dropped at random",
        sample="7 to 29 frames of 12 channels",
        parts="225 / 45 / 370",
        source="https://archive.ics.uci.edu/dataset/128 (ships with sktime: `pip install 'deqzoo[series]'`)",
        licence="CC BY 4.0",
        read=read_vowels,
    ),
    "pendulum": SeriesSource(
        title="Noisy angles of damped pendulums",
        sample="200 points of 1 channel",
        parts="32 / 0 / the truth behind them",
        source="simulated",
        licence="as deqzoo",
        read=simulate_pendulums,
    ),
}


class SeriesBatch(NamedTuple):
    """Some series of a set, (B, T, C), and what is known of them. All have the same times.

    Attributes:
        series: (B,) int64, which of the set they are.
        times: (B, T), equal rows.
        values: what was measured; 0 where nothing was.
        measured: bool, where something was.
        rank: (B, T), place of each time of the window in a random order of them, over their number: in [0, 1), and 1
            beyond. To show a model half of the window's times, show those with rank below .5.
        truth: what predictions are compared with; 0 where it is not known.
        asked: bool, where they are.
    """

    series: Tensor
    times: Tensor
    values: Tensor
    measured: Tensor
    rank: Tensor
    truth: Tensor
    asked: Tensor

    def last_measured(self) -> int:
        """The last of the times at which anything was measured; the host waits for its device once."""
        times = torch.arange(self.measured.shape[1], device=self.measured.device)
        return int((times * self.measured.any(2).any(0)).max())


class SeriesData(PassesData):
    """Series that are observed with noise, gaps, or only in part; batches are the fields of a `SeriesBatch`.

    Args:
        name: the set; `SERIES_SETS` has them.
        seed: of the order of the batches alone.
        options: the fields of `deqzoo.data.config.SeriesDataConfig`.

    Raises:
        MissingPackageError: the set ships inside a package that is not installed.

    >>> data = SeriesData("spirals", batch_size=64)
    >>> data.setup()
    >>> batch = SeriesBatch(*next(iter(data.train_dataloader())))
    >>> batch.values.shape, batch.measured[0, :, 0].sum()
    (torch.Size([64, 200, 2]), tensor(100))
    """

    Config: ClassVar[type[DataConfig]] = SeriesDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name not in SERIES_SETS:
            raise ValueError(f"there is no set of series {name!r}; valid names are {', '.join(sorted(SERIES_SETS))}")

    @cached_property
    def series(self) -> SeriesSet:
        """The set, read when it is first asked for."""
        return SERIES_SETS[self.options.name].read()

    @property
    def info(self) -> SeriesInfo:
        """Channels, statistics, number of series, and the parameters behind them where they are known."""
        series = self.series
        mean, std = series.statistics()
        count = len(series.parts["train"])
        end, parameters = float(series.times[series.window]), tuple(series.parameters.values())
        return SeriesInfo(len(mean), mean, std, count, end, parameters)

    def setup(self, stage: str | None = None) -> None:
        """Read the set; whatever the ``stage``, all parts are there afterwards."""
        if self.tensors is not None:
            return
        series = self.series
        n, length = series.values.shape[:2]
        rank = torch.ones(n, length)
        order = torch.rand(n, series.window, generator=generator(0)).argsort(1)
        rank[:, : series.window] = order / series.window
        measured, known = np.isfinite(series.values), np.isfinite(series.truth)
        self.tensors = tuple(
            SeriesBatch(
                series=torch.arange(n),
                times=torch.tensor(series.times, dtype=torch.float32).expand(n, -1),
                values=_filled(series.values),
                measured=torch.from_numpy(measured),
                rank=rank,
                truth=_filled(series.truth),
                asked=torch.from_numpy(known & (series.exact | ~measured)),
            )
        )
        self.parts = {part: torch.from_numpy(indices) for part, indices in series.parts.items()}


def rows() -> dict[str, list[str]]:
    """The sets' rows of the table of `deqzoo.data.table`."""
    table = {}
    for name, spec in SERIES_SETS.items():
        file = spec.read.__module__.rpartition(".")[2]
        code = f"[`{spec.read.__name__}`](../deqzoo/data/{file}.py)"
        table[name] = [spec.title, spec.sample, "none", spec.parts, "none", code, spec.source, spec.licence]
    return table


def _filled(values: Any) -> Tensor:
    return torch.tensor(np.nan_to_num(values), dtype=torch.float32)
