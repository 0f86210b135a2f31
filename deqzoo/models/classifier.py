"""Training of classifiers: cross-entropy and accuracy, and the penalties that keep the solves of their layers short."""

from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.models.config import ClassifierTraining, DEQTraining, ODETraining, TrainingConfig
from deqzoo.models.jacobian import jacobian_penalty
from deqzoo.models.module import Batch, SolverModule, Step
from deqzoo.nn import DEQ, NeuralODE, solver_layers, use_unrolled


class Classifier(SolverModule):
    """Trains ``network``, inputs (B, ...) -> logits (B, classes), with cross-entropy; logs ``accuracy``.

    Its options are those of `deqzoo.models.config.ClassifierTraining`.
    """

    Options: ClassVar[type[TrainingConfig]] = ClassifierTraining

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy, its labels smoothed in training alone."""
        inputs, labels = batch
        logits = network(inputs)
        smoothing = self.options.label_smoothing if stage == "train" else 0.0
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return Step(loss, {"accuracy": accuracy}, inputs, len(labels))


class DEQClassifierModule(Classifier):
    """A `Classifier` of DEQ layers, with the penalty of their Jacobians (see `deqzoo.models.jacobian`), summed.

    Its first ``unrolled_steps`` steps train an explicit network of ``unrolled_depth`` iterations of each cell.
    """

    Options: ClassVar[type[TrainingConfig]] = DEQTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._jacobians: list[Tensor] = []
        if self.options.jacobian_penalty:
            for layer in solver_layers(network):
                if isinstance(layer, DEQ):
                    layer.register_forward_hook(self._add_jacobian)

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy, its labels smoothed in training alone."""
        explicit = stage == "train" and self.global_step < self.options.unrolled_steps
        with use_unrolled(network, self.options.unrolled_depth) if explicit else nullcontext():
            return super().step(network, batch, stage)

    def penalties(self) -> dict[str, tuple[float, Tensor]]:
        """``jacobian``."""
        if not self._jacobians:
            return {}
        total = torch.stack(self._jacobians).sum()
        self._jacobians.clear()
        return {"jacobian": (self.options.jacobian_penalty, total)}

    def _add_jacobian(self, deq: Any, inputs: tuple[Tensor, ...], z: Any) -> None:
        if self.training and torch.is_grad_enabled():
            self._jacobians.append(jacobian_penalty(deq, inputs[0], z, self.options.jacobian_samples))


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

    def penalties(self) -> dict[str, tuple[float, Tensor]]:
        """``kinetic`` and ``jacobian``, those that have a factor."""
        paths = [layer.path for layer in self._odes()]
        return {
            name: (factor, torch.stack([path[name].mean() for path in paths]).sum())
            for name, factor in self._factors.items()
        }

    def _odes(self) -> list[NeuralODE]:
        return [layer for layer in solver_layers(self.network) if isinstance(layer, NeuralODE)]
