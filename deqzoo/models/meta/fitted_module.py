"""Training of hyperparameters: each step fits a model to training data and lowers its loss on held-out data."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.meta.module import inner_metrics


class FittedModule(SolverModule):
    """Trains hyperparameters by the held-out cross-entropy of the classifier that they give.

    A training batch is training images and labels, held-out images and labels; one for validation or test is images and
    labels. The network's ``fit`` maps training images and labels to the weights of a classifier, differentiable in the
    hyperparameters, and keeps them and its ``solution``; its ``forward`` takes images and, if wanted, such weights.
    Logged besides what `SolverModule` logs: ``accuracy``, and ``nfe``, ``stationarity`` and ``inner_unconverged`` as in
    `deqzoo.models.meta.module.MetaModule`.

    Args:
        network: such a network.
        options: those of `deqzoo.models.common.config.TrainingConfig`.
    """

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy and accuracy: on held-out data, after a fit; in validation and test, of the last fit."""
        fitted: Any = network
        *training, images, labels = batch
        logits: Tensor = fitted(images, fitted.fit(*training) if training else None)
        metrics = {"accuracy": (logits.argmax(1) == labels).float().mean()}
        if training:
            metrics |= inner_metrics([fitted.solution]) | self.hyperparameter_metrics(fitted)
        return Step(cross_entropy(logits, labels), metrics, images, len(labels))

    def hyperparameter_metrics(self, network: Any) -> dict[str, Tensor]:
        """Of a training step, to log."""
        return {}

    def on_after_backward(self) -> None:
        """Log the linear solve of the gradient."""
        solution: Any = self.network.solution
        if solution is not None and solution.backward is not None:
            self.log("train/meta_residual", torch.as_tensor(solution.backward.residual).median())
