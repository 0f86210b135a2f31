"""Stays in intensive care as series on a grid of times: the LightningDataModule, and what its batches hold."""

from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqzoo.data.config import DataConfig
from deqzoo.data.info import StayInfo
from deqzoo.data.loader import generator
from deqzoo.data.module import TensorData
from deqzoo.data.physionet2012 import CHANNELS, HOURS, Stays, find_stays, read_stays, stay_files
from deqzoo.data.series_set import Floats
from deqzoo.data.stay_config import StayDataConfig

CLASSES = ("survived", "died")
QUANTILES = (0.01, 0.99)  # between which mean and standard deviation are taken: files hold a pH of 735


class StayBatch(NamedTuple):
    """Some stays, (B, T, C) with the channels of `deqzoo.data.physionet2012.CHANNELS`. All have the same times.

    Attributes:
        times: (B, T), equal rows, in days.
        values: mean of what was measured nearest to a time, in the files' units; 0 where nothing was.
        counts: how many measurements that are; 0 where nothing was measured.
        scatter: the sum of their squared distances from the mean, so that errors of single measurements are known:
            the sum of (x - p)^2 over them is counts (values - p)^2 + scatter.
        labels: (B,) int64, 1 where the patient died in hospital.
    """

    times: Tensor
    values: Tensor
    counts: Tensor
    scatter: Tensor
    labels: Tensor

    @property
    def observed(self) -> Tensor:
        """Where something was measured, (B, T, C) bool."""
        return self.counts > 0


class StayData(TensorData):
    """Stays in intensive care; batches are the fields of a `StayBatch`. Each seed has test stays of its own.

    Args:
        name: the set: ``physionet2012``.
        seed: of the order of the batches, and of the draw of the stays for training, validation and test.
        options: the fields of `deqzoo.data.stay_config.StayDataConfig`.

    Raises:
        DataNotFoundError: files are missing.
        CorruptDataError: a file is not of the published form.
    """

    Config: ClassVar[type[DataConfig]] = StayDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name != "physionet2012":
            raise ValueError(f"there is no set of stays {name!r}; valid is physionet2012")

    def prepare_data(self) -> None:
        """Download what is missing (Lightning calls this in one process of a machine)."""
        for part in self.options.sets:
            find_stays(self.options.root, part, download=self.options.download)

    @cached_property
    def stays(self) -> Stays:
        """All stays of the sets, read when they are first asked for."""
        return joined([self.read(part) for part in self.options.sets])

    @cached_property
    def split(self) -> dict[str, Tensor]:
        """Which stays train, validate and test."""
        count, options = len(self.stays.record), self.options
        tested = round(options.test_fraction * count)
        validated = round(options.val_fraction * (count - tested))
        order = torch.randperm(count, generator=generator(self.seed))
        return dict(zip(("test", "val", "train"), order.tensor_split([tested, tested + validated]), strict=True))

    @cached_property
    def info(self) -> StayInfo:
        """Channels, and statistics of the training stays alone."""
        trains = np.zeros(len(self.stays.record), bool)
        trains[self.split["train"]] = True
        low, high, mean, std = statistics(self.stays, trains)
        return StayInfo(len(CHANNELS), mean, std, low, high, CLASSES, self.seed)

    def read(self, part: str) -> Stays:
        """All stays of set ``a`` or ``b``, also of one that is not among the options' sets."""
        options = self.options
        return read_stays(find_stays(options.root, part, download=options.download), part, verify=options.verify)

    def setup(self, stage: str | None = None) -> None:
        """Read the files; whatever the ``stage``, all parts are there afterwards."""
        if self.tensors is None:
            self.parts = self.split
            self.tensors = tuple(self.whole(self.stays))

    def whole(self, stays: Stays) -> StayBatch:
        """All of some stays, whose values beyond those of the training stays count as the least or largest of these."""
        low, high = np.array(self.info.low), np.array(self.info.high)
        value = np.clip(stays.value, low[stays.channel], high[stays.channel])
        return on_grid(stays._replace(value=value), self.options.minutes)


def joined(sets: list[Stays]) -> Stays:
    """Several sets as one."""
    if len(sets) == 1:
        return sets[0]
    starts = np.cumsum([0, *(len(stays.record) for stays in sets)])
    shifted = [stays._replace(stay=stays.stay + start) for stays, start in zip(sets, starts[:-1], strict=True)]
    return Stays(*(np.concatenate(columns) for columns in zip(*shifted, strict=True)))


def on_grid(stays: Stays, minutes: int) -> StayBatch:
    """Stays at common times that are ``minutes`` apart, (N, T, C) with T = 48 h / minutes + 1.

    >>> event = {"stay": [0, 0, 0], "minute": [0, 20, 80], "channel": [5, 5, 5], "value": [1.0, 3.0, 7.0]}
    >>> columns = {name: np.array(column) for name, column in event.items()}
    >>> batch = on_grid(Stays(record=np.array([1]), died=np.array([0]), **columns), 60)
    >>> [part[0, :2, 5].tolist() for part in (batch.values, batch.counts, batch.scatter)]
    [[2.0, 7.0], [2.0, 1.0], [2.0, 0.0]]
    """
    steps = HOURS * 60 // minutes + 1
    shape = len(stays.record), steps, len(CHANNELS)
    step = (stays.minute + minutes // 2) // minutes  # to the nearest
    cell = np.ravel_multi_index((stays.stay, step, stays.channel), shape)

    def summed(weights: Floats) -> Floats:
        return np.bincount(cell, weights, minlength=int(np.prod(shape))).astype(np.float64)

    count = summed(np.ones(len(cell)))
    mean = summed(stays.value) / np.maximum(count, 1)
    scatter = summed((stays.value - mean[cell]) ** 2)
    values, counts, scatters = (
        torch.from_numpy(part.reshape(shape).astype(np.float32)) for part in (mean, count, scatter)
    )
    times = torch.arange(steps) * minutes / (24 * 60)
    return StayBatch(times.expand(shape[0], -1), values, counts, scatters, torch.from_numpy(stays.died))


def statistics(stays: Stays, trains: NDArray[np.bool_]) -> tuple[tuple[float, ...], ...]:
    """Least, largest, mean and standard deviation of each channel, of the stays (N,) that ``trains`` chooses.

    The latter two are of what lies between `QUANTILES`. A channel that does not vary has a spread of 1.
    """
    chosen = trains[stays.stay]
    channel, value = stays.channel[chosen], stays.value[chosen]
    found = []
    for number in range(len(CHANNELS)):
        values = value[channel == number]
        if not len(values):
            found.append((0.0, 1.0, 0.0, 1.0))
            continue
        low, high = values.min(), values.max()
        inner = values[(values >= np.quantile(values, QUANTILES[0])) & (values <= np.quantile(values, QUANTILES[1]))]
        found.append((low, high if high > low else low + 1, inner.mean(), inner.std() or 1.0))
    return tuple(tuple(float(f"{entry:.6g}") for entry in column) for column in zip(*found, strict=True))


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    spec = stay_files("a")
    cells = [
        "PhysioNet 2012: the first 48 hours of stays in intensive care, and who died in hospital",
        f"{len(CHANNELS)} channels at irregular times, most of them missing at each",
        str(len(CLASSES)),
        "2,880 / 320 / 800 of set a, drawn by the seed; set b has 4,000 as well",
        f"{2 * spec.megabytes} MB",
        "[`StayData`](../deqzoo/data/stays.py)",
        spec.source,
        spec.licence,
    ]
    return {"physionet2012": cells}
