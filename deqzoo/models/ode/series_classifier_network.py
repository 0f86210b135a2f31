"""Classifiers of irregular series with missing values: a neural CDE, and the recurrent network it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.models.ode.series import check_series
from deqzoo.nn.cde import NeuralCDE
from deqzoo.nn.dynamics import MLPVectorField
from deqzoo.nn.interpolation import INTERPOLATIONS, PiecewisePolynomial


class SeriesClassifier(nn.Module):
    """What both share: series that are normalised inside, and checked.

    Args:
        channels: of the series.
        mean, std: of each channel.
        clip: values count as at most so many standard deviations from the mean; None: all as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float], clip: float | None = None) -> None:
        super().__init__()
        self.channels, self.clip = channels, clip
        self.register_buffer("mean", torch.tensor(tuple(mean)))
        self.register_buffer("std", torch.tensor(tuple(std)))

    def normalised(self, times: Tensor, values: Tensor, observed: Tensor) -> Tensor:
        """The values in units of each channel's standard deviation, NaN where nothing was observed."""
        check_series(times, values, observed, self.channels)
        x = torch.where(observed, (values - self.mean) / self.std, torch.nan)
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


class NeuralCDEClassifier(SeriesClassifier):
    """Logits of the state at the end of a path through the series:

        X = interpolation of (time, values),  z(t_0) = linear(X(t_0)),  dz = f(z) dX,  logits = linear(z(t_1))

    After the last observation of a series its path stands still, time included, and so does the state. A Hermite path
    needs an interval to come to rest, which is appended: so the logits do not depend on how many times come after the
    last observation (but for the natural spline, of which all pieces do, a little).

    Args:
        channels, mean, std: of the series, see `SeriesClassifier`.
        classes: names of the labels.
        hidden: of the state z.
        width: of the field, `deqzoo.nn.MLPVectorField` with one layer between.
        interpolation: hermite, natural or linear, see `deqzoo.nn.INTERPOLATIONS`.
        solver, adjoint: see `deqzoo.nn.NeuralCDE`.

    Source: Kidger, Morrill, Foster, Lyons, "Neural Controlled Differential Equations for Irregular Time Series", 2020,
    [arXiv:2005.08926](https://arxiv.org/abs/2005.08926).

    >>> network = NeuralCDEClassifier(2, [0, 0], [1, 1], ["a", "b", "c"], hidden=4, width=8)
    >>> network(torch.arange(5.0), torch.zeros(3, 5, 2), torch.ones(3, 5, 2).bool()).shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str],
        *,
        hidden: int = 16,
        width: int = 32,
        interpolation: str = "hermite",
        solver: Any = None,
        adjoint: Any = None,
    ) -> None:
        super().__init__(channels, mean, std)
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation={interpolation}: valid are {', '.join(sorted(INTERPOLATIONS))}")
        self.interpolation, self.classes = interpolation, tuple(classes)
        self.start = nn.Linear(channels + 1, hidden)
        self.cde = NeuralCDE(MLPVectorField(hidden, channels + 1, width), solver=solver, adjoint=adjoint)
        self.head = nn.Linear(hidden, len(classes))

    def path(self, times: Tensor, values: Tensor, observed: Tensor) -> PiecewisePolynomial:
        """Through time and normalised values, 1 + channels; arguments as for `forward`."""
        x = F.pad(self.normalised(times, values, observed), (0, 0, 0, 1), value=torch.nan)
        last = torch.where(observed.any(2), times, times[0]).amax(1, keepdim=True)  # of each series
        step = times[-1:] - times[-2:-1] if len(times) > 1 else torch.ones_like(times)
        times = torch.cat([times, times[-1:] + step])
        clock = torch.minimum(times, last).unsqueeze(2)
        return INTERPOLATIONS[self.interpolation](torch.cat([clock, x], 2), times)

    def forward(self, times: Tensor, values: Tensor, observed: Tensor) -> Tensor:
        """Logits (B, classes) of values (B, T, C), where observed (B, T, C) holds, at times (T,)."""
        path = self.path(times, values, observed)
        logits: Tensor = self.head(self.cde(path, self.start(path(times[0]))))
        return logits


class GRUDClassifier(SeriesClassifier):
    """Logits of the last state of a GRU-D: missing values decay from the last one to the mean, and so does the state:

        decay(d) = exp(-relu(W d + b)),  d: time since each channel was observed
        x = mask value + (1 - mask) (decay_x(d) last value + (1 - decay_x(d)) mean)
        h <- GRU([x, mask], decay_h(d) h)

    A series is read up to its last observation.

    Args:
        channels, mean, std, clip: of the series, see `SeriesClassifier`.
        classes: names of the labels.
        width: of the state h.

    Source: Che, Purushotham, Cho, Sontag, Liu, "Recurrent Neural Networks for Multivariate Time Series with Missing
    Values", 2018, [arXiv:1606.01865](https://arxiv.org/abs/1606.01865).

    >>> network = GRUDClassifier(2, [0, 0], [1, 1], ["a", "b", "c"], width=4)
    >>> network(torch.arange(5.0), torch.zeros(3, 5, 2), torch.ones(3, 5, 2).bool()).shape
    torch.Size([3, 3])
    """

    def __init__(
        self,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        classes: Sequence[str],
        *,
        width: int = 37,
        clip: float | None = None,
    ) -> None:
        super().__init__(channels, mean, std, clip)
        self.classes = tuple(classes)
        self.cell = nn.GRUCell(2 * channels, width)
        self.state_decay = nn.Linear(channels, width)
        # A factor and a bias for each channel by itself; not 0, where relu has no gradient.
        self.value_decay = nn.Parameter(torch.tensor([0.5, 0.1]).repeat(channels, 1).T.clone())
        self.head = nn.Linear(width, len(classes))

    def forward(self, times: Tensor, values: Tensor, observed: Tensor) -> Tensor:
        """Logits (B, classes) of values (B, T, C), where observed (B, T, C) holds, at times (T,)."""
        x = self.normalised(times, values, observed).nan_to_num(0.0)
        state = x.new_zeros(len(x), self.cell.hidden_size)
        last, since = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])
        steps = torch.arange(len(times), device=x.device)
        end = torch.where(observed.any(2), steps, -1).amax(1, keepdim=True)
        gaps = times.diff(prepend=times[:1])
        for step in range(len(times)):
            seen = observed[:, step]
            since = since + gaps[step]
            decay = torch.exp(-F.relu(self.value_decay[0] * since + self.value_decay[1]))
            filled = torch.where(seen, x[:, step], decay * last)  # the mean is 0 in these units
            state_before = torch.exp(-F.relu(self.state_decay(since))) * state
            moved = self.cell(torch.cat([filled, seen.to(x)], 1), state_before)
            state = torch.where(steps[step] <= end, moved, state)
            last = torch.where(seen, x[:, step], last)
            since = since.masked_fill(seen, 0.0)
        logits: Tensor = self.head(state)
        return logits
