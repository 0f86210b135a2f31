"""Training of image classifiers that are made of DEQ layers: loss, metrics, optimiser."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deqzoo.implicit import Solution
from deqzoo.models.equilibria import backward_metrics, forward_metrics
from deqzoo.models.finite import check_gradients, check_step
from deqzoo.models.jacobian import jacobian_penalty
from deqzoo.models.optim import make_optimizer, make_schedule

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Trains ``network`` with cross-entropy and logs accuracy, loss and what its fixed points cost.

    Logged for ``train``, ``val`` and ``test``: ``loss``, ``accuracy``, and those of
    `deqzoo.models.equilibria.forward_metrics`; in training also the backward solves'.

    Args:
        network: images (B, C, H, W) in [0, 1] -> logits (B, classes), with its DEQ layers in ``.equilibria``.
        optimizer: ``adamw`` or ``sgd`` (Nesterov).
        lr: highest learning rate.
        weight_decay: of tensors with more than one dimension.
        momentum: of sgd.
        schedule: ``constant``, ``cosine`` or ``one_cycle``, see `deqzoo.models.optim.lr_scale`.
        warmup: fraction of the steps during which the learning rate rises.
        label_smoothing: of the training loss.
        ema_decay: of the moving average of the weights that is validated, tested and exported; 0: none.
        jacobian_penalty: factor of `deqzoo.models.jacobian.jacobian_penalty`, summed over the DEQ layers.
        jacobian_samples: of each batch, on which it is estimated; None: all.

    It needs no Hydra: ``Trainer().fit(Classifier(network), datamodule)``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        momentum: float = 0.9,
        schedule: str = "cosine",
        warmup: float = 0.05,
        label_smoothing: float = 0.0,
        ema_decay: float = 0.0,
        jacobian_penalty: float = 0.0,
        jacobian_samples: int | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {ema_decay}.")
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        self.average: AveragedModel | None = None
        if ema_decay:
            average = get_ema_multi_avg_fn(ema_decay)
            self.average = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
            self.average.requires_grad_(False)
        self._penalties: list[Tensor] = []
        if jacobian_penalty:
            for deq in network.equilibria:  # type: ignore[union-attr]
                deq.register_forward_hook(self._add_penalty)
        self._test: list[dict[str, Tensor]] = []

    @property
    def trained_network(self) -> nn.Module:
        """The network that is validated, tested and exported: the moving average, if there is one."""
        return self.network if self.average is None else self.average.module

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        return self.trained_network(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of a batch; a NaN or Inf stops the run with its cause."""
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.hparams["label_smoothing"])
        check_step(loss, images, self._solutions(self.network), self.network, self._when())
        self._log("train", logits, labels, loss, self.network)
        if self._penalties:
            penalty = torch.stack(self._penalties).sum()
            self._penalties.clear()
            self.log("train/jacobian", penalty.detach())
            loss = loss + self.hparams["jacobian_penalty"] * penalty
        return loss

    def on_after_backward(self) -> None:
        """Log the backward solves."""
        for name, value in backward_metrics(self._solutions(self.network)).items():
            self.log(f"train/{name}", value)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep a NaN or Inf in a gradient away from the weights."""
        check_gradients(self.network, self._solutions(self.network), self._when())

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and update the moving average of the weights; a checkpoint has both or neither."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.network)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, accuracy and cost of the solves on held-out data."""
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As `validation_step`, and the residuals are kept for their median over the whole set."""
        network = self._evaluate("test", batch)
        residuals = torch.stack([solution.residual for solution in self._solutions(network)]).amax(0)
        self._test.append({"residual": residuals.float()})

    def on_test_epoch_end(self) -> None:
        """Log the median residual over all samples of the test set."""
        residual = torch.cat([part["residual"] for part in self._test])
        self._test.clear()
        self.log("test/residual", residual.median(), sync_dist=True)
        self.log("test/n", float(len(residual)), sync_dist=True, reduce_fx="sum")

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule over all steps of the run."""
        recipe = self.hparams
        optimizer = make_optimizer(
            self.network,
            recipe["optimizer"],
            lr=recipe["lr"],
            weight_decay=recipe["weight_decay"],
            momentum=recipe["momentum"],
        )
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = make_schedule(optimizer, recipe["schedule"], total_steps=total_steps, warmup=recipe["warmup"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _evaluate(self, stage: str, batch: Batch) -> nn.Module:
        images, labels = batch
        network = self.trained_network
        logits = network(images)
        loss = F.cross_entropy(logits.float(), labels)
        self._log(stage, logits, labels, loss, network)
        return network

    def _log(self, stage: str, logits: Tensor, labels: Tensor, loss: Tensor, network: nn.Module) -> None:
        metrics = {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels).float().mean()}
        metrics |= forward_metrics(self._solutions(network))
        if stage == "test":
            metrics.pop("residual")  # its median is taken over the whole set
        training = stage == "train"
        named = {f"{stage}/{name}": value for name, value in metrics.items()}
        self.log_dict(named, on_step=training, on_epoch=not training, batch_size=len(labels), sync_dist=not training)

    def _add_penalty(self, deq: Any, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        if self.training and torch.is_grad_enabled():
            self._penalties.append(jacobian_penalty(deq, inputs[0], z, self.hparams["jacobian_samples"]))

    def _when(self) -> str:
        batch = self.trainer.fit_loop.epoch_loop.batch_idx
        return f"epoch {self.current_epoch}, batch {batch} (step {self.global_step})"

    @staticmethod
    def _solutions(network: nn.Module) -> list[Solution]:
        solutions = [deq.solution for deq in network.equilibria]  # type: ignore[union-attr]
        return [solution for solution in solutions if solution is not None]
