"""Training of classifiers of ODE layers."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deqzoo.models.common.classifier_module import Classifier
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.ode.config import ODETraining
from deqzoo.nn import NeuralODE, solver_layers


class ODEClassifierModule(Classifier):
    """A `Classifier` of ODE layers, with the penalties of their paths (see `deqzoo.nn.NeuralODE`), summed over them."""

    Options: ClassVar[type[TrainingConfig]] = ODETraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._factors = {
            name: factor
            for name, factor in (
                ("kinetic", self.options.kinetic_penalty),
                ("jacobian", self.options.jacobian_penalty),
            )
            if factor
        }
        for layer in self._odes():
            layer.penalties = tuple(self._factors)

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """``kinetic`` and ``jacobian``, those that have a factor."""
        paths = [layer.path for layer in self._odes()]
        return {
            name: (factor, torch.stack([path[name].mean() for path in paths]).sum())
            for name, factor in self._factors.items()
        }

    def _odes(self) -> list[NeuralODE]:
        return [layer for layer in solver_layers(self.network) if isinstance(layer, NeuralODE)]
