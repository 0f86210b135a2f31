"""Training of any network of DEQ layers: the penalty of their Jacobians, and shorter solves in training."""

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deqzoo.models.config import FixedPointTraining, TrainingConfig
from deqzoo.models.jacobian import jacobian_penalty
from deqzoo.models.module import Batch, SolverModule
from deqzoo.nn import DEQ, solver_layers


class DEQModule(SolverModule):
    """A `SolverModule` of DEQ layers, with their `jacobian_penalty`, summed; options: `FixedPointTraining`."""

    Options: ClassVar[type[TrainingConfig]] = FixedPointTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._layers = [layer for layer in solver_layers(network) if isinstance(layer, DEQ)]
        self._jacobians: list[Tensor] = []
        if self.options.jacobian_penalty:
            for layer in self._layers:
                layer.register_forward_hook(self._add_jacobian)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """As `SolverModule.training_step`, with ``train_max_steps``."""
        steps = self.options.train_max_steps
        if steps is None or not self._layers:
            return super().training_step(batch, batch_idx)
        own = [layer.solver for layer in self._layers]
        try:
            for layer in self._layers:
                layer.solver = dataclasses.replace(layer.solver, max_steps=steps)
            return super().training_step(batch, batch_idx)
        finally:
            for layer, solver in zip(self._layers, own, strict=True):
                layer.solver = solver

    def penalties(self) -> dict[str, tuple[float, Tensor]]:
        """``jacobian``."""
        penalties = super().penalties()
        if self._jacobians:
            penalties["jacobian"] = self.options.jacobian_penalty, torch.stack(self._jacobians).sum()
            self._jacobians.clear()
        return penalties

    def _add_jacobian(self, deq: Any, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        if self.training and torch.is_grad_enabled():
            self._jacobians.append(jacobian_penalty(deq, inputs[0], z, self.options.jacobian_samples))
