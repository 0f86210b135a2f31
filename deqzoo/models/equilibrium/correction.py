"""Fixed-point correction: losses of what a network says before its equilibrium is found."""

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.equilibrium.config import FixedPointCorrection


class FixedPointCorrected(SolverModule):
    """A classifier whose last equilibrium is to be right on its way there, so that fewer steps do.

        loss = L(z*) + sum_i decay^(n + 1 - i) L(f(z_i)),    z_1 ... z_n the iterates after `correction_steps`

    with cross-entropies L of the network's ``readout``. The gradient of each added loss goes through one step f.

    Source: Bai, Geng, Savani, Kolter, "Deep Equilibrium Optical Flow Estimation", 2022.

    Args:
        network: its last layer of ``equilibria`` is corrected; it has a ``readout``, from that layer's state to logits.
        options: those of `deqzoo.models.equilibrium.config.FixedPointCorrection`, among others.
    """

    Options: ClassVar[type[TrainingConfig]] = FixedPointCorrection

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._labels: Any = None
        if steps := self.options.correction_steps:
            last: Any = network.equilibria[-1]  # type: ignore[index, union-attr]
            asked = getattr(self.options, "train_max_steps", None)
            most = last.solver.max_steps if asked is None else asked
            if list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] >= most:
                limit = f"solver_options.max_steps={most}" if asked is None else f"train_max_steps={asked}"
                raise ValueError(f"correction_steps={list(steps)} must increase, and lie below {limit}")
            last.solver = dataclasses.replace(last.solver, keep=tuple(steps))

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """As without, and the labels are kept for the further losses."""
        self._labels = batch[1] if stage == "train" else None
        return super().step(network, batch, stage)

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """``correction``, the sum above."""
        penalties = super().penalties()
        if self.options.correction_steps:
            network: Any = self.network
            decay, smoothing = self.options.correction_decay, self.options.label_smoothing
            states = network.equilibria[-1].intermediate
            losses = [
                F.cross_entropy(network.readout(z).float(), self._labels, label_smoothing=smoothing) for z in states
            ]
            weighted = [decay ** (len(losses) - i) * loss for i, loss in enumerate(losses)]
            penalties["correction"] = 1.0, torch.stack(weighted).sum()
        return penalties
