"""What a run shows while it goes on: a bar in a terminal, elsewhere a line now and then."""

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from deqzoo.zoo.cards import duration

console = Console(highlight=False, soft_wrap=True)
T = TypeVar("T")
_LOG_EVERY = 10  # steps: reading a metric waits for the device
_LINE_EVERY = 30.0  # seconds: where there is no terminal


class Display:
    """A bar of one phase; without a terminal, lines ``HH:MM:SS  PHASE  step N of TOTAL  RATE, time left  TEXT``.

    Args:
        phase: what goes on.
        unit: what is counted.
        done: of them, at the start.
        total: of them, where it is known.
        every: seconds between lines; None: a bar where there is a terminal, else `_LINE_EVERY`.
    """

    def __init__(
        self, phase: str, unit: str, done: int = 0, total: int | None = None, every: float | None = None
    ) -> None:
        self.phase, self.unit, self.done, self.total, self.text = phase, unit, done, total, ""
        self._began, self._done_before, self._last_line = time.monotonic(), done, time.monotonic()
        self._every = _LINE_EVERY if every is None else every
        self._bar: Progress | None = None
        if console.is_terminal and every is None:
            columns = [TextColumn("{task.fields[phase]}"), BarColumn(), MofNCompleteColumn()]
            columns += [TextColumn("{task.fields[pace]}"), TextColumn("{task.fields[text]}")]
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("", completed=done, total=total, phase=phase, pace="", text="")
            self._bar.start()

    def move(self, phase: str, done: int, text: str | None = None, line: bool = False) -> None:
        """Show a new state; without a terminal, if it is to be a line, or the last one is long ago."""
        self.phase, self.done, self.text = phase, done, self.text if text is None else text
        if self._bar is not None:
            self._bar.update(self._task, completed=done, phase=phase, pace=self.pace(), text=self.text)
        elif line or time.monotonic() - self._last_line > self._every:
            self._last_line = time.monotonic()
            count = f"{self.unit} {done}" + ("" if self.total is None else f" of {self.total}")
            parts = [f"{datetime.now():%H:%M:%S}", phase, count, self.pace(), self.text]
            console.print("  ".join(filter(None, parts)))

    def pace(self) -> str:
        """The rate since the start, and the time that is left by it."""
        done, seconds = self.done - self._done_before, time.monotonic() - self._began
        if done < 1 or seconds <= 0:
            return ""
        rate = done / seconds
        shown = f"{rate:.3g} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{self.unit}"
        left = None if self.total is None else (self.total - self.done) / rate
        return shown if not left else f"{shown}, {duration(left)} left"

    def stop(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()


class RunProgress(ProgressBar):
    """One bar for the whole training and one for the test.

    Args:
        metric: the number of the validation that is shown.
    """

    def __init__(self, metric: str = "accuracy") -> None:
        super().__init__()
        self.metric = metric
        self._display: Display | None = None
        self._shown = True

    def disable(self) -> None:
        """Show nothing."""
        self._shown = False

    def enable(self) -> None:
        """Show the bar again."""
        self._shown = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar."""
        total = trainer.estimated_stepping_batches
        self._start(trainer, _epoch(trainer), "step", trainer.global_step, int(total) if total < float("inf") else None)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Move the bar; its numbers change when they are logged."""
        text = self._summary(trainer) if trainer.global_step % _LOG_EVERY == 0 else None
        self._move(_epoch(trainer), trainer.global_step, text)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """The bar stands still, and says why."""
        text = f"validating, batch {batch_idx + 1} of {int(sum(trainer.num_val_batches))}"
        self._move(_epoch(trainer), trainer.global_step, text)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What was reached; without a terminal, a line."""
        self._move(_epoch(trainer), trainer.global_step, self._summary(trainer), line=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the bar."""
        self._start(trainer, "test", "batch", 0, int(sum(trainer.num_test_batches)))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Move the bar."""
        self._move("test", batch_idx + 1, None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        self._stop()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the bar as it stands."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bar as it stands, so that the message comes below it."""
        self._stop()

    def _start(self, trainer: Trainer, phase: str, unit: str, done: int, total: int | None) -> None:
        self._stop()
        if self._shown and trainer.is_global_zero:
            self._display = Display(phase, unit, done, total)

    def _move(self, phase: str, done: int, text: str | None, line: bool = False) -> None:
        if self._display is not None and self._shown:
            self._display.move(phase, done, text, line)

    def _stop(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def _summary(self, trainer: Trainer) -> str:
        logged = trainer.logged_metrics
        shown = {"loss": "train/loss", "nfe": "train/nfe", f"val {self.metric}": f"val/{self.metric}"}
        parts = [f"{label} {float(logged[name]):.3g}" for label, name in shown.items() if name in logged]
        return "  ".join(parts)


def watched(phase: str, batches: Iterable[T], total: int | None) -> Iterator[T]:
    """The batches, with a line now and then: several may go on at a time, which bars may not."""
    display = Display(phase, "batch", 0, total, every=_LINE_EVERY / 6)
    for number, batch in enumerate(batches, 1):
        yield batch
        display.move(phase, number)


def _epoch(trainer: Trainer) -> str:
    total = trainer.max_epochs
    return f"epoch {trainer.current_epoch + 1}" + (f" of {total}" if total is not None and total > 0 else "")
