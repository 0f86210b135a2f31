"""Training on stays in intensive care: who dies, and, of a latent ODE, what was measured."""

import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC

from deqzoo.data.stays import StayBatch
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.ode.config import LatentStayTraining, StayTraining


class StayModule(SolverModule):
    """Trains ``network``, (times, values, observed) -> logits (B, 2), on `StayBatch` by cross-entropy; logs ``auc``.

    In training a part of what was measured in each stay is hidden, a fraction drawn from 0 to ``hidden_fraction``.
    """

    Options: ClassVar[type[TrainingConfig]] = StayTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.aucs = nn.ModuleDict({stage: BinaryAUROC() for stage in ("val", "test")})

    def on_test_start(self) -> None:
        """A warning where the weights have seen other training stays: those tested may be among them."""
        mean: Any = self.trained_network.mean
        if not torch.allclose(mean.cpu(), torch.tensor(self.trainer.datamodule.info.mean)):  # type: ignore[attr-defined]
            warnings.warn(
                "these weights were trained on another draw of the stays: some that are tested now may have trained "
                "them. Give seed= and data.sets= as they were in their training.",
                stacklevel=1,  # else it is Lightning that warns, whose warnings a run leaves out
            )

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy and AUC."""
        data = StayBatch(*batch)
        logits = network(data.times[0], data.values, self.shown(data, stage))
        entropy = F.cross_entropy(logits, data.labels)
        return Step(entropy, self.auc(logits, data.labels, stage), data.values, len(data.labels))

    def shown(self, data: StayBatch, stage: str) -> Tensor:
        """What of the measurements is read, (B, T, C) bool: all, but for training."""
        there = data.observed
        most = self.options.hidden_fraction
        if stage != "train" or not most:
            return there
        kept = 1 - most * torch.rand(len(there), 1, 1, device=there.device)
        seen = there & (torch.rand(there.shape, device=there.device) < kept)
        return torch.where(seen.any(2, keepdim=True).any(1, keepdim=True), seen, there)

    def auc(self, logits: Tensor, labels: Tensor, stage: str) -> dict[str, Any]:
        """Of all stays that are validated or tested; none in training."""
        if stage == "train":
            return {}
        metric: Any = self.aucs[stage]
        metric.update(logits.softmax(1)[:, 1], labels)
        return {"auc": metric}


class LatentStayModule(StayModule):
    """Trains a `deqzoo.models.LatentODEClassifier` by the paper's loss, which is

        MSE / (2 noise^2) + kl_weight KL / latent + classification_weight cross-entropy,

    all over 1 + classification_weight. The MSE is that of `stay_errors`, of a path from a draw of the posterior; the
    divergence is the mean over the latent dimensions. Validation and test take the posterior's mean, and log the two
    means of the squared error, ``interpolation_mse`` and ``measurement_mse``.

    Source: Rubanova, Chen, Duvenaud, 2019, and their code, in which the MSE has this form.
    """

    Options: ClassVar[type[TrainingConfig]] = LatentStayTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.errors = nn.ModuleDict({stage: MeanMetric() for stage in ("val", "test")})

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The loss of a batch."""
        data, model = StayBatch(*batch), network
        net: Any = model
        posterior = net.posterior(data.times[0], data.values, self.shown(data, stage))
        start = posterior.sample() if stage == "train" else posterior.mean
        errors, counts = stay_errors(data, net.decode(start, data.times[0]), net.span)
        mse = (errors / counts.clamp(min=1)).mean()
        divergence = posterior.divergence().mean()
        metrics: dict[str, Any] = {"kl": divergence.detach(), "interpolation_mse": mse.detach()}
        loss = mse / (2 * net.noise**2) + self._kl_weight(stage) * divergence / posterior.mean.shape[1]
        if weight := self.options.classification_weight:
            logits = net.head(start)
            entropy = F.cross_entropy(logits, data.labels)
            loss = loss + weight * entropy
            metrics |= {"cross_entropy": entropy.detach(), **self.auc(logits, data.labels, stage)}
        if stage != "train":
            mean: Any = self.errors[stage]
            mean.update(errors.sum() / counts.sum(), counts.sum())
            metrics["measurement_mse"] = mean
        return Step(loss / (1 + weight), metrics, data.values, len(data.labels))

    def _kl_weight(self, stage: str) -> float:
        weight: float = self.options.kl_weight
        rise = self.options.kl_annealing * float(self.trainer.estimated_stepping_batches) if stage == "train" else 0
        return weight * (min(1.0, self.global_step / rise) if rise else 1.0)


def stay_errors(data: StayBatch, prediction: Tensor, span: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of the squared errors of all measurements, over span^2, and their number, (B, C) each.

    The paper's code takes the mean of each stay and channel, and then the mean of these over all stays and channels, 0
    where nothing was measured; the mean over all measurements is the ratio of the sums.

    Args:
        data: of B stays.
        prediction: (B, T, C).
        span: (C,), the range of each channel.
    """
    squares = data.counts * (data.values - prediction).square() + data.scatter
    return squares.sum(1) / span.square(), data.counts.sum(1)
