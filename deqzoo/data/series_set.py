"""What a set of series is: values at common times, of which some are measured, and the truth behind them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


class MissingPackageError(ImportError):
    """A data set ships inside a package that is not installed; the message names it."""


@dataclass(frozen=True)
class SeriesSet:
    """N series of C channels at T common times; NaN stands for what is not there.

    Attributes:
        times: (T,), increasing.
        values: (N, T, C), what was measured and may be used.
        truth: (N, T, C), what predictions are compared with.
        window: number of times, the first ones, at which a model is shown values; the others lie beyond.
        parts: indices of the series "train", "val" and "test".
        exact: whether the truth is free of noise. If it is not, predictions are scored only where nothing was measured.
        parameters: of the law that made the series, where it is known.
    """

    times: Floats
    values: Floats
    truth: Floats
    window: int
    parts: Mapping[str, NDArray[np.int64]]
    exact: bool
    parameters: Mapping[str, float] = field(default_factory=dict)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the measured training values, per channel, rounded to four places."""
        values = self.values[self.parts["train"]]
        mean, std = np.nanmean(values, (0, 1)), np.nanstd(values, (0, 1))
        return tuple(mean.round(4).tolist()), tuple(std.round(4).tolist())
