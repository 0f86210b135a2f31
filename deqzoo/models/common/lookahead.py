"""Lookahead: the weights return to their moving average every few steps, and end there."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit.private_api import lerp_in_place


class Lookahead:
    """Every `every` steps, average <- d average + (1 - d) weights and weights <- average.

    d = decay^every t^3, t from 0 to 1 over the training: at first the weights go where the steps lead, in the end they
    are their own average. After the last step they are.

    Args:
        parameters: to be averaged.
        every: steps between two returns.
        decay: of the average, per step, in the end.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back", 2019; with this schedule Jordan,
    arXiv:2404.00498.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], every: int, decay: float) -> None:
        self.parameters = list(parameters)
        self.every, self.decay = every, decay
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int, total: int, skipped: Tensor | None = None) -> None:
        """To be called after `step` of `total` steps; `skipped`, on the device: that step left the weights alone."""
        if step % self.every and step < total:
            return
        decay = self.decay**self.every * min(1.0, step / total) ** 3
        weights: list[Tensor] = [p.data for p in self.parameters]
        # The parameters may have moved to their device since the averages were made.
        self.average = [average.to(p.device) for average, p in zip(self.average, weights, strict=True)]
        lerp_in_place(self.average, weights, 1 - decay if skipped is None else torch.where(skipped, 0.0, 1 - decay))
        for p, average in zip(self.parameters, self.average, strict=True):
            p.copy_(average if skipped is None else torch.where(skipped, p, average))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for own, saved in zip(self.average, state["average"], strict=True):
            own.copy_(saved)
