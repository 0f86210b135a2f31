"""What happens beside the training steps: the checkpoint of a run, its random numbers."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from deqzoo.atomic import whole_file
from deqzoo.errors import Stopped
from deqzoo.models.common.finite import NonFiniteError
from deqzoo.signals import BetweenSteps


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which a run that was cut off goes on; saves every few steps and after each epoch.

    It is written whole or not at all, and never with a NaN or Inf in it. Where a signal has asked the run to end, it is
    written after the step that goes on, and `Stopped` is raised.

    Args:
        path: of the file.
        every_n_steps: how often.
        signals: those that have come; None: of none.
    """

    def __init__(self, path: Path, every_n_steps: int, signals: BetweenSteps | None = None) -> None:
        self.path, self.every_n_steps, self._signals = path, every_n_steps, signals

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save every ``every_n_steps`` steps, and where the run is to end."""
        stepped = (trainer.fit_loop.epoch_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        end = self._is_to_end(trainer)
        if stepped and (end or trainer.global_step % self.every_n_steps == 0):
            self.save(trainer, pl_module)
            self._end(trainer, end)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save where the run is to end: the validation is done again."""
        if trainer.training and not trainer.sanity_checking and self._is_to_end(trainer):
            self.save(trainer, pl_module)
            self._end(trainer, True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after each epoch."""
        self.save(trainer, pl_module)
        self._end(trainer, self._is_to_end(trainer))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where Lightning ends several processes at the same step."""
        if isinstance(exception, SIGTERMException) and trainer.world_size > 1 and trainer.training:
            self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write ``last.ckpt``, if all parameters are finite; else raise `NonFiniteError`."""
        finite = torch.stack([torch.isfinite(p).all() for p in pl_module.parameters()]).all()
        if not finite:
            raise NonFiniteError(f"Training stopped at step {trainer.global_step}: a parameter is NaN or Inf.")
        if trainer.is_global_zero:
            with whole_file(self.path) as part:
                trainer.save_checkpoint(part)
        else:
            trainer.save_checkpoint(self.path)  # the other processes only take part

    def _is_to_end(self, trainer: Trainer) -> bool:
        """Several processes must end at the same step, to which Lightning sees."""
        return self._signals is not None and self._signals.asked is not None and trainer.world_size == 1

    def _end(self, trainer: Trainer, end: bool) -> None:
        if end:
            assert self._signals is not None
            assert self._signals.asked is not None
            raise Stopped(self._signals.asked, f"Stopped at step {trainer.global_step}.")


class SeedSteps(Callback):
    """Random numbers of each training step (dropout) follow from (seed, step, process) alone.

    So a resumed run draws what the undisturbed one would have drawn, whatever was drawn in between.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Seed torch's generators for this step."""
        step = trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed((self.seed << 32) + step * trainer.world_size + trainer.global_rank)
