"""Training of classifiers: cross-entropy and accuracy, and the penalties that keep the solves of their layers short."""

from typing import ClassVar, cast

from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.data.images import ImageData
from deqzoo.models.common.config import ClassifierTraining, TrainingConfig
from deqzoo.models.common.image_classifier import ImageClassifier
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.nn.whitening import Whitening

WHITENED = 5000  # training images whose patches are looked at


class Classifier(SolverModule):
    """Trains ``network``, inputs (B, ...) -> logits (B, classes), with cross-entropy; logs ``accuracy``.

    Its options are those of `deqzoo.models.common.config.ClassifierTraining`.
    """

    Options: ClassVar[type[TrainingConfig]] = ClassifierTraining

    def on_fit_start(self) -> None:
        """Fit a whitening to the training images, if the network has one; weights to start from have theirs."""
        whitenings = [layer for layer in self.network.modules() if isinstance(layer, Whitening)]
        if not whitenings or self.from_weights:
            return
        network, data = cast(ImageClassifier, self.network), cast(ImageData, self.trainer.datamodule)  # type: ignore[attr-defined]
        chosen = data.parts["train"][:WHITENED]
        images = data.images[chosen].to(self.device).float() / data.white
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
