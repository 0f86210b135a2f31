"""A latent ODE whose start also tells a class: of stays in intensive care, who dies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deqzoo.models.ode.latent_ode_network import Dynamics, Encoder, LatentODE
from deqzoo.nn.dynamics import mlp

CLIP = 5.0  # standard deviations: files hold typing errors


class LatentODEClassifier(LatentODE):
    """A latent ODE, and logits of the state from which its path starts:

        z0 ~ q(z0 | observations),  dz/dt = f(z),  x(t) = decoder(z(t)) + noise,  logits = head(z0)

    Args:
        channels, mean, std: of the series, see `LatentODE`.
        low, high: of each channel, by which errors are scaled (`span` is their difference).
        classes: names of the labels; none: the network has no head, and gives predictions in place of logits.
        latent, hidden, width, encoder, dynamics, solver, adjoint: see `LatentODE`; ``hidden`` is the width of the head,
            too.
        noise: standard deviation of the observations about the path, as a part of high - low.

    Raises:
        ValueError: of a series without any observation, of times that do not increase, or of shapes that do not fit.

    Source: Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series", 2019,
    [arXiv:1907.03907](https://arxiv.org/abs/1907.03907), section 4.3.

    >>> known = {"mean": [0, 0], "std": [1, 1], "low": [-3, -3], "high": [3, 3]}
    >>> network = LatentODEClassifier(channels=2, classes=["survived", "died"], **known)
    >>> times, values, observed = torch.linspace(0, 2, 5), torch.zeros(3, 5, 2), torch.ones(3, 5, 2).bool()
    >>> network(times, values, observed).shape, network.predict(times, values, observed).shape
    (torch.Size([3, 2]), torch.Size([3, 5, 2]))
    """

    may_be_empty = False

    def __init__(
        self,
        *,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        low: Sequence[float],
        high: Sequence[float],
        classes: Sequence[str],
        latent: int = 20,
        hidden: int = 50,
        width: int = 40,
        encoder: Encoder = "ode_rnn",
        dynamics: Dynamics = "ode",
        noise: float = 0.01,
        solver: Any = None,
        adjoint: Any = None,
    ) -> None:
        span = [top - bottom for bottom, top in zip(low, high, strict=True)]
        super().__init__(
            channels=channels, mean=mean, std=std, latent=latent, hidden=hidden, width=width, encoder=encoder,
            dynamics=dynamics, noise=[noise * part for part in span], clip=CLIP, solver=solver, adjoint=adjoint,
        )  # fmt: skip
        self.classes, self.noise = tuple(classes), noise
        self.span: Tensor
        # These travel with the weights, so that a test on stays of another draw is noticed.
        self.register_buffer("mean", self.mean)
        self.register_buffer("std", self.std)
        self.register_buffer("span", torch.tensor(span))
        if self.classes:
            self.head = mlp(latent, hidden, len(classes))

    def forward(self, times: Tensor, values: Tensor, observed: Tensor, at: Tensor | None = None) -> Tensor:
        """Logits (B, classes), from the posterior's mean; arguments as `LatentODE` has them, but for ``at``."""
        if not self.classes:
            return self.predict(times, values, observed, at)
        if at is not None:
            raise ValueError("logits are of no time: call predict(times, values, observed, at)")
        logits: Tensor = self.head(self.posterior(times, values, observed).mean)
        return logits

    def predict(self, times: Tensor, values: Tensor, observed: Tensor, at: Tensor | None = None) -> Tensor:
        """The series (B, T', C) at the times ``at``, as `LatentODE` predicts it."""
        return super().forward(times, values, observed, at)
