"""Training of any network with solver layers: optimiser, schedule, moving average, NaN checks, logging."""

from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed, nn

from deqzoo.implicit.sending import Fetched
from deqzoo.models.common.average import MovingAverage
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.finite import UNTOLD, Skips, all_finite, fault_of_gradients, fault_of_step, finite_gradients
from deqzoo.models.common.lookahead import Lookahead
from deqzoo.models.common.muon import Muon
from deqzoo.models.common.optim import freeze_others, make_optimizer, make_schedule, skips_by_itself
from deqzoo.models.common.solves import backward_metrics, forward_metrics, residuals
from deqzoo.nn import SolverLayer, solver_layers

Batch = tuple[Tensor, ...]


@dataclass
class Step:
    """What `SolverModule.step` makes of a batch.

    Attributes:
        loss: a scalar, with a graph in training.
        metrics: further numbers to log, means over the batch.
        inputs: what the network was fed, (B, ...): looked through for NaN and Inf.
        count: samples in the batch.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    inputs: Tensor
    count: int


@dataclass
class _Part:
    """A batch of a training step: one, or several whose gradients are added up.

    Attributes:
        step: its loss holds no graph.
        finite: whether loss and inputs are, on their device.
        penalties: see `SolverModule.penalties`.
    """

    step: Step
    finite: Tensor
    penalties: dict[str, Tensor]


class SolverModule(LightningModule):
    """Trains ``network``: a subclass says what a `step` is, and this does the rest.

    Logged for ``train``, ``val`` and ``test``: ``loss``, the step's metrics, and what the solves cost (see
    `deqzoo.models.common.solves`); in training also the backward solves'. A training step with a NaN or Inf is skipped:
    weights, optimiser, moving average and buffers stay as they were. ``train/skipped`` counts such steps; ten in a row
    end the run with their cause.

    Args:
        network: its solver layers are found by `deqzoo.nn.solver_layers`.
        options: fields of the class's ``Options``: those of `deqzoo.models.common.config.TrainingConfig` and its own.

    It needs no Hydra: ``Trainer().fit(Classifier(network), datamodule)``.
    """

    Options: ClassVar[type[TrainingConfig]] = TrainingConfig

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__()
        valid = {field.name for field in fields(self.Options)}
        if unknown := set(options) - valid:
            listed = ", ".join(sorted(valid))
            raise TypeError(f"{type(self).__name__} has no option {min(unknown)!r}; valid are {listed}")
        self.options: Any = self.Options(**options)
        plain = {key: value.value if isinstance(value, Enum) else value for key, value in asdict(self.options).items()}
        self.save_hyperparameters(plain)
        self.network = network
        self.from_weights = False  # True: what is fitted to the data before a training is part of those already
        freeze_others(network, self.options.train_only)
        self.average: MovingAverage | None = None
        if self.options.ema_decay:
            self.average = MovingAverage(network, self.options.ema_decay)
        self.lookahead: Lookahead | None = None
        if self.options.lookahead_every:
            trained = [p for p in network.parameters() if p.requires_grad]
            self.lookahead = Lookahead(trained, self.options.lookahead_every, self.options.lookahead_decay)
        self.skips = Skips()
        self._skipped: Tensor | None = None  # whether the step is skipped, on its device; None: the host knows
        self._open: tuple[Fetched, str] | None = None  # that, of the last step, on its way to the host, and when it was
        self._parts: list[_Part] = []  # of the step that is being made
        self._before: list[Tensor] = []  # of the network, before them
        self._residuals: list[Tensor] = []
        self._tested = 0

    @classmethod
    def of(cls, network: nn.Module, settings: Any) -> Self:
        """With the options that the typed settings of a recipe have."""
        return cls(network, **{field.name: getattr(settings, field.name) for field in fields(cls.Options)})

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Loss and metrics of a batch; ``stage`` is train, val or test."""
        raise TypeError(f"{type(self).__name__} does not define step()")

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """Penalties of the training step that has just run, by name: the factor, and the penalty that is logged."""
        return {}

    @property
    def trained_network(self) -> nn.Module:
        """The network that is validated, tested and exported: the moving average, if there is one."""
        return self.network if self.average is None else self.average.module

    def forward(self, *inputs: Tensor) -> Any:
        """Output of the trained network."""
        return self.trained_network(*inputs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, with its penalties. Whether all is finite is asked once, before the step is made."""
        if not self._parts:
            self._before = [buffer.clone() for buffer in self.network.buffers()]
        step = self.step(self.network, batch, "train")
        finite, penalties = all_finite(step.loss, step.inputs), self.penalties()
        loss = step.loss
        for factor, penalty in penalties.values():
            loss = loss + factor * penalty
        self._parts.append(
            _Part(
                replace(step, loss=step.loss.detach()),
                finite,
                {name: penalty.detach() for name, (_, penalty) in penalties.items()},
            )
        )
        # Of several processes the others hear of a fault by the gradients.
        return loss * torch.where(finite, 1.0, torch.nan) if _are_several_processes() else loss

    def on_after_backward(self) -> None:
        """Log the backward solves."""
        for name, value in backward_metrics(solver_layers(self.network)).items():
            self.log(f"train/{name}", value)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Keep a NaN or Inf away from the weights; in a gradient alone, float16's loss scaling sees to that itself."""
        self._parts, parts = [], self._parts
        self.settle()
        self._skipped = self._skip_on_device(parts, optimizer)
        if self._skipped is None:
            self._skip_on_host(parts, optimizer)
        if self._skipped is not None or self.skips.latest is None:
            self._log("train", parts[-1].step, solver_layers(self.network))
            for name, penalty in parts[-1].penalties.items():
                self.log(f"train/{name}", penalty)
        if self.skips.total:
            self.log("train/skipped", float(self.skips.total))

    def settle(self) -> None:
        """Count the last step, if the host has not heard yet whether it was skipped."""
        last, self._open = self._open, None
        if last is None:
            return
        skipped, when = last
        if skipped.read():
            self.skips.fault = UNTOLD
            if self.average is not None:
                self.average.updates -= 1
            for optimizer in self.trainer.optimizers:
                if isinstance(optimizer, Muon):
                    optimizer.uncount()
        self.skips.end_step(when)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module; of a checkpoint, all is counted by then."""
        self.settle()
        return super().state_dict(*args, **kwargs)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, and update the moving average of the weights; a checkpoint has both or neither."""
        super().optimizer_step(*args, **kwargs)
        if self._skipped is None and self.skips.latest is not None:
            return
        if self.lookahead is not None:
            steps = int(self.trainer.estimated_stepping_batches)
            self.lookahead.update(self.global_step, steps, self._skipped)
        if self.average is not None:
            self.average.update(self.network, self._skipped)

    def on_train_end(self) -> None:
        """A training of which each step was skipped has failed, however short it was."""
        self.settle()
        if self.skips.row and self.skips.row == self.global_step:
            self.skips.stop(self._when())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The skipped steps are counted on when training is resumed."""
        checkpoint["skips"] = self.skips.state_dict()
        if self.lookahead is not None:
            checkpoint["lookahead"] = self.lookahead.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As saved."""
        self.from_weights = True
        self.skips.load_state_dict(checkpoint.get("skips", self.skips.state_dict()))
        if self.lookahead is not None and "lookahead" in checkpoint:
            self.lookahead.load_state_dict(checkpoint["lookahead"])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss, metrics and cost of the solves on held-out data."""
        self._log("val", self.step(self.trained_network, batch, "val"), solver_layers(self.trained_network))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As `validation_step`, and the residuals are kept for their median over the whole set."""
        layers = solver_layers(self.trained_network)
        step = self.step(self.trained_network, batch, "test")
        self._log("test", step, layers)
        self._tested += step.count
        if (found := residuals(layers)) is not None:
            self._residuals.append(found.float())

    def on_test_epoch_end(self) -> None:
        """Log the number of samples of the test set, and the median residual over all of them."""
        found, count = self._residuals, self._tested
        self._residuals, self._tested = [], 0
        if found:
            self.log("test/residual", self.gather_samples(torch.cat(found)).median(), sync_dist=True)
        self.log("test/n", float(count), sync_dist=True, reduce_fx="sum")

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule over all steps of the run."""
        options = self.options
        optimizer = make_optimizer(
            self.network,
            options.optimizer.value,
            lr=options.lr,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            groups=options.parameter_groups,
            fused=self.device.type != "cpu" and not self._scales_loss,
            **options.optimizer_options,
        )
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = make_schedule(optimizer, options.schedule.value, total_steps=total_steps, warmup=options.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """The sum of each process's values, for numbers of a whole test set."""
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered.reshape(-1, *values.shape).sum(0)

    def gather_samples(self, values: Tensor) -> Tensor:
        """The values of all processes' samples, (samples, ...): each process may have another number of them."""
        if not _are_several_processes():
            return values
        counts = self.all_gather(torch.tensor(len(values), device=values.device))
        assert isinstance(counts, Tensor)
        padded = values.new_zeros((int(counts.max()), *values.shape[1:]))
        padded[: len(values)] = values
        gathered = self.all_gather(padded)
        assert isinstance(gathered, Tensor)
        return torch.cat([of_one[:count] for of_one, count in zip(gathered, counts.tolist(), strict=True)])

    @property
    def _scales_loss(self) -> bool:
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def _finite(self, parts: list[_Part]) -> Tensor:
        flags = [part.finite for part in parts] + ([] if self._scales_loss else finite_gradients(self.network))
        return torch.stack(flags).all()

    def _skip_on_device(self, parts: list[_Part], optimizer: Any) -> Tensor | None:
        """Have the device skip the step if it must, and return whether; None if the host is to, see `finite`."""
        if self.device.type == "cpu" or self._scales_loss or self.skips.latest is not None:
            return None
        if not skips_by_itself(optimizer):
            return None
        skipped = ~self._finite(parts)
        optimizer.found_inf = skipped.float()
        self._restore_buffers(skipped)
        self._open = Fetched(skipped), self._when()
        return skipped

    def _skip_on_host(self, parts: list[_Part], optimizer: Any) -> None:
        self.skips.fault = self._fault(parts)
        self.skips.end_step(self._when())
        optimizer.found_inf = None
        if self.skips.latest is not None:
            optimizer.zero_grad(set_to_none=True)  # what has no gradient is left alone by its step
            self._restore_buffers()

    def _restore_buffers(self, where: Tensor | None = None) -> None:
        """As before the step: a batch normalisation would keep the NaN for good."""
        for buffer, before in zip(self.network.buffers(), self._before, strict=True):
            buffer.data.copy_(before if where is None else torch.where(where, before, buffer))

    def _fault(self, parts: list[_Part]) -> str | None:
        """What is wrong with the step of these parts, or its gradients; None: nothing. The host waits once."""
        if self._finite(parts):
            return None
        layers = solver_layers(self.network)
        faults = (fault_of_step(part.step.loss, part.step.inputs, layers, self.network) for part in parts)
        return next(filter(None, faults), None) or fault_of_gradients(self.network, layers)

    def _log(self, stage: str, step: Step, layers: list[SolverLayer]) -> None:
        metrics = {"loss": step.loss.detach(), **step.metrics, **forward_metrics(layers)}
        if stage == "test":
            metrics.pop("residual", None)  # its median is taken over the whole set
        training = stage == "train"
        named = {f"{stage}/{name}": value for name, value in metrics.items()}
        # Lightning divides by the mean number of samples per process, rounded down: that of a multiple is exact.
        weight = step.count if training else step.count * self.trainer.world_size
        self.log_dict(named, on_step=training, on_epoch=not training, batch_size=weight, sync_dist=not training)

    def _when(self) -> str:
        batch = self.trainer.fit_loop.epoch_loop.batch_idx
        return f"epoch {self.current_epoch}, batch {batch} (step {self.global_step})"


def _are_several_processes() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
