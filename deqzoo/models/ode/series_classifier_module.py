"""Training of classifiers of series with missing values."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from deqzoo.data.labelled_series import LabelledSeriesBatch
from deqzoo.models.common.classifier_module import Classifier
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, Step
from deqzoo.models.ode.config import SeriesClassifierTraining


class SeriesClassifierModule(Classifier):
    """Trains ``network``, (times, values, observed) -> logits (B, classes), on `LabelledSeriesBatch`.

    In training a part of the values of each series is dropped anew, a fraction drawn between the least and the largest
    of ``dropped_fractions``; what is dropped at the least is not in the data at all. Validation and test drop the same
    values always, and log ``accuracy_dropped_30`` and the like for each of the fractions, and their mean, ``accuracy``.
    """

    Options: ClassVar[type[TrainingConfig]] = SeriesClassifierTraining

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy and accuracy."""
        data = LabelledSeriesBatch(*batch)
        if stage == "train":
            return self.scored(classify(network, data, self._random_part(data)), data.labels, data.values, stage)
        steps = {
            accuracy_name(fraction): self.scored(
                classify(network, data, data.shown(fraction)), data.labels, data.values, stage
            )
            for fraction in self.options.dropped_fractions
        }
        metrics = {name: step.metrics["accuracy"] for name, step in steps.items()}
        metrics["accuracy"] = torch.stack(list(metrics.values())).mean()
        loss = torch.stack([step.loss for step in steps.values()]).mean()
        return Step(loss, metrics, data.values, len(data.labels))

    def _random_part(self, data: LabelledSeriesBatch) -> Tensor:
        """What of the values a training step sees, (B, T, C) bool."""
        least, largest = min(self.options.dropped_fractions), max(self.options.dropped_fractions)
        there = data.shown(least)
        dropped = least + (largest - least) * torch.rand(len(there), 1, 1, device=there.device)
        seen = there & (torch.rand(there.shape, device=there.device) < (1 - dropped) / (1 - least))
        return torch.where(seen.any(2, keepdim=True).any(1, keepdim=True), seen, there)


def classify(network: nn.Module, data: LabelledSeriesBatch, observed: Tensor) -> Tensor:
    """Logits (B, classes) of what is observed; times after all observations are left out."""
    steps = torch.arange(observed.shape[1], device=observed.device)
    length = max(int((steps * observed.any(2).any(0)).max()) + 1, 2)
    logits: Tensor = network(data.times[0, :length], data.values[:, :length], observed[:, :length])
    return logits


def accuracy_name(dropped: float) -> str:
    """The metric at a fraction of values dropped.

    >>> accuracy_name(0.3)
    'accuracy_dropped_30'
    """
    return f"accuracy_dropped_{round(100 * dropped)}"
