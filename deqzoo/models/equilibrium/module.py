"""Training of image classifiers of DEQ layers."""

from typing import ClassVar

from torch import nn

from deqzoo.models.common.classifier_module import Classifier
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.deq_module import DEQModule
from deqzoo.models.common.module import Batch, Step
from deqzoo.models.equilibrium.config import DEQTraining, MonDEQTraining
from deqzoo.models.equilibrium.correction import FixedPointCorrected


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


class MonDEQClassifierModule(DEQModule, Classifier):
    """A `Classifier` with a monDEQ."""

    Options: ClassVar[type[TrainingConfig]] = MonDEQTraining
