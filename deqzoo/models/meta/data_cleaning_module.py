"""Training of the examples' weights of a `deqzoo.models.DataCleaner`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.meta.module import inner_metrics


class DataCleaningModule(SolverModule):
    """Each step fits the classifier to the weighted examples and lowers its loss on the clean set, in their weights.

    A training batch is training images and labels, clean images and labels; one for validation or test is images and
    labels. Logged besides what `SolverModule` logs: ``accuracy``, and ``nfe``, ``stationarity`` and
    ``inner_unconverged`` as in `deqzoo.models.meta.module.MetaModule`.

    Args:
        network: a `DataCleaner`.
        options: those of `deqzoo.models.common.config.TrainingConfig`.
    """

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy and accuracy: on the clean set, after a fit; in validation and test, of the last fit."""
        cleaner: Any = network
        *training, images, labels = batch
        logits: Tensor = cleaner(images, cleaner.fit(*training) if training else None)
        metrics = {"accuracy": (logits.argmax(1) == labels).float().mean()}
        if training:
            metrics |= inner_metrics([cleaner.solution])
            metrics["trust"] = cleaner.trust.detach().mean()
        return Step(cross_entropy(logits, labels), metrics, images, len(labels))

    def on_after_backward(self) -> None:
        """Log the linear solve of the gradient."""
        solution: Any = self.network.solution
        if solution is not None and solution.backward is not None:
            self.log("train/meta_residual", torch.as_tensor(solution.backward.residual).median())
