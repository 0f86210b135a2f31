"""Latent ODEs: generative models of series that were observed at irregular times, with gaps.

A series is a path of a latent ODE, seen through a decoder; an encoder guesses the state from which the path starts:

    z0 ~ q(z0 | observations),  dz/dt = f(z),  x(t) = decoder(z(t)) + noise

All series of a batch share their sorted time points (the union of when anything was seen); a mask says what was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from deqzoo.implicit import RK4, Direct, odeint
from deqzoo.models.ode.series import check_series
from deqzoo.nn.dynamics import MLPDynamics, mlp
from deqzoo.nn.ode import NeuralODE
from deqzoo.nn.tensors import check_tensor

Encoder = Literal["gru", "ode_rnn"]
Dynamics = Literal["ode", "gru"]
_LOG_2PI = math.log(2 * math.pi)


class Posterior(NamedTuple):
    """A diagonal Gaussian over the latent state at the first time: mean and log standard deviation, (B, latent)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each series, (B, latent), with a graph to mean and log_std; ``generator`` is one of the CPU."""
        if generator is None:
            return self.mean + self.log_std.exp() * torch.randn_like(self.mean)
        return self.mean + self.log_std.exp() * torch.randn(self.mean.shape, generator=generator).to(self.mean)

    def divergence(self) -> Tensor:
        """KL(q || N(0, I)) of each series, (B,), in nats."""
        return (0.5 * (self.mean.square() + (2 * self.log_std).exp() - 1) - self.log_std).sum(-1)


class Bound(NamedTuple):
    """An evidence lower bound.

    Attributes:
        value: of each series, (B,), in nats.
        divergence: of the posterior from the prior, (B,), in nats.
        path: the states (T, B, latent) by which it was estimated.
    """

    value: Tensor
    divergence: Tensor
    path: Tensor


class SeriesEncoder(nn.Module):
    """Reads the observations of each series, the latest first, into a `Posterior` of the state at the first time.

    A step is what was seen at one time: values, mask, and the gap to the next step, which lies earlier. With
    ``ode=True`` the hidden state also moves across each gap, by an ODE of its own (ODE-RNN), which is one
    Runge-Kutta step per gap.

    Args:
        channels: of the series.
        width: of the hidden state.
        latent: dimensions of the latent state.
        ode: whether the hidden state moves between observations.

    Source: Chen et al., "Neural Ordinary Differential Equations", 2018 (GRU); Rubanova, Chen, Duvenaud, "Latent ODEs
    for Irregularly-Sampled Time Series", 2019 (ODE-RNN).
    """

    def __init__(self, channels: int, width: int, latent: int, *, ode: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(2 * channels + 1, width, batch_first=True)
        self.drift = mlp(width, width, width) if ode else None
        self.head = nn.Linear(width, 2 * latent)

    def forward(self, times: Tensor, values: Tensor, observed: Tensor, length: int | None = None) -> Posterior:
        """Posteriors given values (B, T, C) where observed (B, T, C) holds, at times (T,).

        ``length``: no series was seen more often; None: it is looked up, for which the host waits.
        """
        steps, valid = _latest_first(times, values, observed, length)
        hidden = self._read(steps) if self.drift is None else self._read_and_move(steps, self.drift)
        last = valid.sum(1) - 1
        state = hidden[torch.arange(len(last), device=last.device), last.clamp(min=0)]
        state = torch.where((last >= 0)[:, None], state, 0.0)  # nothing was seen at all
        mean, log_std = self.head(state).chunk(2, -1)
        return Posterior(mean, log_std)

    def _read(self, steps: Tensor) -> Tensor:
        """Hidden states after each step, (B, L, width)."""
        return self.rnn(steps)[0]

    def _read_and_move(self, steps: Tensor, drift: nn.Module) -> Tensor:
        """As `_read`; after each step the state moves across the gap, in a time that runs from 0 to 1."""
        span = steps.new_tensor([0.0, 1.0])
        state = steps.new_zeros(1, len(steps), self.rnn.hidden_size)
        states = []
        for step in steps.split(1, dim=1):
            _, state = self.rnn(step, state)
            gap = step[:, 0, -1:]
            moved = odeint(lambda s, h, gap: gap * drift(h), state[0], span, gap, solver=RK4(), adjoint=Direct())
            state = moved[-1:]
            states.append(state[0])
        return torch.stack(states, 1)


class RecurrentPath(nn.Module):
    """A path of hidden states by a GRU that is told the gaps between the times: what a latent ODE is compared with."""

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.start = nn.Linear(latent, hidden)
        self.rnn = nn.GRU(1, hidden)

    def forward(self, z0: Tensor, times: Tensor) -> Tensor:
        """States (T, B, hidden) at times (T,), from z0 (B, latent)."""
        gaps = torch.diff(times, prepend=times[:1])
        return self.rnn(gaps[:, None, None].expand(-1, len(z0), 1), self.start(z0)[None])[0]


class LatentODE(nn.Module):
    """A variational autoencoder of series whose latent state follows an ODE (see this module's docstring).

    Args:
        channels: of the series.
        mean, std: of each channel; the normalisation is part of the network.
        latent: dimensions of the latent state.
        hidden: width of the dynamics f (two hidden layers) and of the decoder (one).
        width: of the encoder's hidden state.
        encoder: ``gru`` or ``ode_rnn``, see `SeriesEncoder`.
        dynamics: ``ode``, or ``gru`` for `RecurrentPath` in its place, the baseline.
        noise: standard deviation of the observations about the path, in their own units, of all channels or of each;
            None: learned, per channel.
        clip: what the encoder reads lies at most so many standard deviations from the mean; None: all as it is.
        solver, adjoint: of the latent ODE, see `deqzoo.nn.NeuralODE`.

    >>> model = LatentODE(channels=2, mean=[0.0, 0.0], std=[1.0, 1.0])
    >>> times, values = torch.linspace(0, 1, 7), torch.randn(3, 7, 2)
    >>> model(times, values, torch.rand(3, 7, 2) < 0.5).shape
    torch.Size([3, 7, 2])
    """

    may_be_empty = True  # a series without any observation: the state is one of the prior's

    def __init__(
        self,
        *,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        latent: int = 4,
        hidden: int = 20,
        width: int = 25,
        encoder: Encoder = "gru",
        dynamics: Dynamics = "ode",
        noise: float | Sequence[float] | None = None,
        clip: float | None = None,
        solver: Any = None,
        adjoint: Any = None,
    ) -> None:
        super().__init__()
        if not len(mean) == len(std) == channels:
            raise ValueError(f"mean and std need one value for each of the {channels} channels")
        deviations = [noise] if isinstance(noise, int | float) else list(noise or [])
        if noise is not None and not all(deviation > 0 for deviation in deviations):
            raise ValueError(f"noise must be positive, or None to be learned; got {noise}")
        self.clip = clip
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean)), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)), persistent=False)
        self.encoder = SeriesEncoder(channels, width, latent, ode=encoder == "ode_rnn")
        self.path: nn.Module
        if dynamics == "ode":
            self.path = NeuralODE(MLPDynamics(latent, hidden, "tanh"), solver=solver, adjoint=adjoint)
        else:
            self.path = RecurrentPath(latent, hidden)
        self.decoder = mlp(latent if dynamics == "ode" else hidden, hidden, channels)
        log_noise = torch.full((channels,), -1.0) if noise is None else (torch.tensor(deviations) / self.std).log()
        self.log_noise = nn.Parameter(log_noise, requires_grad=noise is None)  # in units of std

    def posterior(self, times: Tensor, values: Tensor, observed: Tensor) -> Posterior:
        """Of the latent state at times[0], given values (B, T, C) where observed (B, T, C) holds, at times (T,)."""
        check_series(times, values, observed, len(self.mean), may_be_empty=self.may_be_empty)
        return self._encode(times, values, observed)

    def _encode(self, times: Tensor, values: Tensor, observed: Tensor, length: int | None = None) -> Posterior:
        """As `posterior`, of what training knows to be right: checks would wait for the device."""
        values = torch.where(observed, (values - self.mean) / self.std, 0.0)
        if self.clip is not None:
            values = values.clamp(-self.clip, self.clip)
        return self.encoder(times, values, observed, length)

    def decode(self, z0: Tensor, times: Tensor) -> Tensor:
        """The series' noiseless values (B, T, C) at times (T,), from the state z0 (B, latent) at times[0]."""
        return self.decoder(self.path(z0, times)).transpose(0, 1) * self.std + self.mean

    def forward(self, times: Tensor, values: Tensor, observed: Tensor, at: Tensor | None = None) -> Tensor:
        """Prediction (B, T', C) at the times ``at`` (T',), from the posterior's mean.

        ``at`` is increasing and does not start before times[0]; None: ``times``.
        """
        return self._decode_at(self.posterior(times, values, observed).mean, times, at)

    @torch.no_grad()
    def sample(
        self,
        times: Tensor,
        values: Tensor,
        observed: Tensor,
        at: Tensor | None = None,
        *,
        draws: int = 100,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predictions (draws, B, T', C) from draws of z0: their spread is what the observations leave open."""
        mean, log_std = self.posterior(times, values, observed)
        repeated = Posterior(mean.repeat(draws, 1), log_std.repeat(draws, 1))
        return self._decode_at(repeated.sample(generator), times, at).unflatten(0, (draws, -1))

    def elbo(
        self,
        times: Tensor,
        values: Tensor,
        observed: Tensor,
        scored: Tensor,
        *,
        kl_weight: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Bound:
        """Evidence lower bound of the values where ``scored`` holds, given those where ``observed`` does.

            E_q [log p(x | z0)] - kl_weight KL(q || N(0, I)),  estimated with one draw of z0, in nats

        ``generator`` makes the draw; None: torch's own.
        """
        posterior = self._encode(times, values, observed)
        path = self.path(posterior.sample(generator), times)
        error = (values - self.mean) / self.std - self.decoder(path).transpose(0, 1)
        error = torch.where(scored, error, 0.0)  # what was not measured may be NaN
        log_noise = self.log_noise
        density = -0.5 * (error / log_noise.exp()).square() - log_noise - 0.5 * _LOG_2PI - self.std.log()
        divergence = posterior.divergence()
        likelihood = torch.where(scored, density, 0.0).sum((1, 2))
        return Bound(likelihood - kl_weight * divergence, divergence, path)

    def inconsistency(self, path: Tensor, times: Tensor, values: Tensor, observed: Tensor, start: int) -> Tensor:
        """How far a path is, at times[start], from the state that is seen in the observations from then on, (B,).

            |z(t) - mean|^2 / (2 std^2),  mean, std: of q(z(t) | observations at t and later)

        The dynamics do not depend on time, so any time may be the first, and both are the state at t. Where they agree,
        the path goes on beyond its window as the windows go that start on it. No gradient goes to std: it would grow.

        Args:
            path: (T, B, latent), as `elbo` returns it.
            times, values, observed: (T,), (B, T, C) and (B, T, C), as `elbo` takes them.
            start: index of t.

        Source: after the continuity prior of Iakovlev, Yildiz, Heinonen, Lähdesmäki, "Latent Neural ODEs with Sparse
        Bayesian Multiple Shooting", 2023.
        """
        mean, log_std = self._encode(times[start:], values[:, start:], observed[:, start:], len(times) - start)
        return 0.5 * ((path[start] - mean) / log_std.detach().exp()).square().sum(-1)

    def _decode_at(self, z0: Tensor, times: Tensor, at: Tensor | None) -> Tensor:
        if at is None:
            return self.decode(z0, times)
        check_tensor("at", at)
        if at.dim() != 1 or not len(at):
            raise ValueError(f"at must be one or more increasing times, (T',), got shape {tuple(at.shape)}")
        if bool(at[0] < times[0]):
            raise ValueError(f"predictions start at times[0] = {float(times[0]):g} or later, got {float(at[0]):g}")
        if bool(at[0] == times[0]):
            return self.decode(z0, at)
        return self.decode(z0, torch.cat([times[:1], at]))[:, 1:]


def _latest_first(times: Tensor, values: Tensor, observed: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """The times at which anything of a series was seen, the latest first, padded behind to ``length`` or the longest.

    Returns steps (B, L, 2C + 1), which are values, mask, and the gap to the next step (from the last one: to
    times[0]), and which of them are no padding, (B, L).
    """
    rank = torch.arange(1, len(times) + 1, device=times.device)
    rank, order = (observed.any(-1) * rank).sort(1, descending=True)
    if length is None:
        length = max(1, int((rank > 0).sum(1).max())) if len(rank) else 1
    valid, order = rank[:, :length] > 0, order[:, :length]
    when = torch.where(valid, times[order], times[0])
    gaps = when - torch.cat([when[:, 1:], times[0].expand(len(when), 1)], 1)
    picked = order[..., None].expand(-1, -1, values.shape[-1])
    mask = observed.gather(1, picked)
    steps = torch.cat([torch.where(mask, values.gather(1, picked), 0.0), mask.to(values.dtype), gaps[..., None]], -1)
    return steps, valid
