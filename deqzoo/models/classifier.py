"""Training of classifiers: cross-entropy and accuracy, and the penalties that keep the solves of their layers short."""

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.data.images import ImageData
from deqzoo.models.config import ClassifierTraining, DEQTraining, ODETraining, TrainingConfig
from deqzoo.models.correction import FixedPointCorrected
from deqzoo.models.deq_module import DEQModule
from deqzoo.models.module import Batch, SolverModule, Step
from deqzoo.nn import ImageClassifier, NeuralODE, solver_layers
from deqzoo.nn.whitening import Whitening

WHITENED = 5000  # training images whose patches are looked at


class Classifier(SolverModule):
    """Trains ``network``, inputs (B, ...) -> logits (B, classes), with cross-entropy; logs ``accuracy``.

    Its options are those of `deqzoo.models.config.ClassifierTraining`.
    """

    Options: ClassVar[type[TrainingConfig]] = ClassifierTraining

    def on_fit_start(self) -> None:
        """Fit a whitening to the training images, if the network has one; a resumed run finds the same."""
        whitenings = [layer for layer in self.network.modules() if isinstance(layer, Whitening)]
        if not whitenings:
            return
        network, data = cast(ImageClassifier, self.network), cast(ImageData, self.trainer.datamodule)  # type: ignore[attr-defined]
        chosen = data.parts["train"][:WHITENED]
        images = data.images[chosen].to(self.device).float() / data.spec.white
        for whitening in whitenings:
            whitening.fit((images - network.mean) / network.std)

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy and accuracy."""
        inputs, labels = batch
        return self.scored(network(inputs), labels, inputs, stage)

    def scored(self, logits: Tensor, labels: Tensor, inputs: Tensor, stage: str) -> Step:
        """The cross-entropy, its labels smoothed in training alone, and the accuracy of logits (B, classes)."""
        smoothing = self.options.label_smoothing if stage == "train" else 0.0
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return Step(loss, {"accuracy": accuracy}, inputs, len(labels))


class DEQClassifierModule(DEQModule, FixedPointCorrected, Classifier):
    """A `Classifier` of DEQ layers, with the penalty of their Jacobians, and losses on the way to the fixed point."""

    Options: ClassVar[type[TrainingConfig]] = DEQTraining

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy and accuracy.

        With ``flip_at_test`` the test has ``accuracy_flip`` beside it, of the logits of an image and of its mirror
        image, averaged.
        """
        if stage != "test" or not self.options.flip_at_test:
            return super().step(network, batch, stage)
        inputs, labels = batch
        mirrored = network(inputs.flip(-1))  # first: what is logged of the solves is of the images as they are
        logits = network(inputs)
        step = self.scored(logits, labels, inputs, stage)
        step.metrics["accuracy_flip"] = ((logits + mirrored).argmax(1) == labels).float().mean()
        return step


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
