"""What happens beside the training steps: the checkpoint of a run, its random numbers, its progress bar."""

import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deqzoo.atomic import whole_file
from deqzoo.models.common.finite import NonFiniteError

console = Console(highlight=False, soft_wrap=True)
_LOG_EVERY = 10  # steps: reading a metric waits for the device
_LINE_EVERY = 30.0  # seconds: where there is no terminal


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, from which a run that was cut off goes on; saves every few steps and after each epoch.

    It is written whole or not at all, and never with a NaN or Inf in it.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        self.path, self.every_n_steps = path, every_n_steps

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save every ``every_n_steps`` steps."""
        stepped = (trainer.fit_loop.epoch_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and trainer.global_step % self.every_n_steps == 0:
            self.save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after each epoch."""
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


class RunProgress(ProgressBar):
    """One bar for the whole training and one for the test; where there is no terminal, a line now and then.

    Args:
        metric: the number of the validation that is shown.
    """

    def __init__(self, metric: str = "accuracy") -> None:
        super().__init__()
        self.metric = metric
        self._bar: Progress | None = None
        self._shown = True
        self._last_line = time.monotonic()

    def disable(self) -> None:
        """Show nothing."""
        self._shown = False

    def enable(self) -> None:
        """Show the bar again."""
        self._shown = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar."""
        self._start(trainer, f"epoch {trainer.current_epoch + 1}", int(trainer.estimated_stepping_batches))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the bar; its numbers change when they are logged."""
        summary = self._summary(trainer) if trainer.global_step % _LOG_EVERY == 0 else None
        total = int(trainer.estimated_stepping_batches)
        self._move(trainer, f"epoch {trainer.current_epoch + 1}", trainer.global_step, total, summary)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """The bar stands still, and says why."""
        text = f"validating, batch {batch_idx + 1} of {int(sum(trainer.num_val_batches))}"
        self._move(trainer, f"epoch {trainer.current_epoch + 1}", trainer.global_step, None, text)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was reached; without a terminal, a line."""
        self._move(
            trainer, f"epoch {trainer.current_epoch + 1}", trainer.global_step, None, self._summary(trainer), True
        )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar."""
        self._start(trainer, "test", int(sum(trainer.num_test_batches)))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Move the bar."""
        self._move(trainer, "test", batch_idx + 1, int(sum(trainer.num_test_batches)), None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        self._stop()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands, so that the message comes below it."""
        self._stop()

    def _start(self, trainer: Trainer, phase: str, total: int) -> None:
        if not (self._shown and console.is_terminal and trainer.is_global_zero):
            return
        columns = [
            TextColumn("{task.fields[phase]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        ]
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task("", total=total, phase=phase, text="")
        self._bar.start()

    def _move(
        self, trainer: Trainer, phase: str, done: int, total: int | None, text: str | None, line: bool = False
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=done, phase=phase)
            if text is not None:
                self._bar.update(self._task, text=text)
        elif self._shown and trainer.is_global_zero and (line or time.monotonic() - self._last_line > _LINE_EVERY):
            self._last_line = time.monotonic()
            count = f"{done}" if total is None else f"{done} of {total}"
            console.print(f"{phase}  step {count}  {self._summary(trainer) if text is None else text}".rstrip())

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _summary(self, trainer: Trainer) -> str:
        logged = trainer.logged_metrics
        shown = {"loss": "train/loss", "nfe": "train/nfe", f"val {self.metric}": f"val/{self.metric}"}
        parts = [f"{label} {float(logged[name]):.3g}" for label, name in shown.items() if name in logged]
        return "  ".join(parts)
