"""Short trainings for the studies: an entry's recipe, and Lightning without files and noise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize
from lightning import LightningDataModule, LightningModule
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf

from deqzoo import config
from deqzoo.training.device import quiet_lightning


def recipe(entry: str) -> tuple[Any, Any, Any]:
    """The typed settings of an entry's model, data and trainer."""
    words = [f"model={entry}"]
    config.register(words)
    with initialize(version_base="1.3", config_path=None):
        composed = compose("run", words)
    return tuple(OmegaConf.to_object(part) for part in (composed.model, composed.data, composed.trainer))


def fit(
    module: LightningModule,
    data: LightningDataModule,
    epochs: int,
    steps: int = -1,
    clip: float | None = None,
    precision: str | int = "32-true",
    callbacks: Sequence[Callback] = (),
) -> int:
    """Train on the CPU for `epochs`, or for `steps` if these are fewer; returns the steps taken."""
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with quiet_lightning(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limits: dict[str, Any] = {"max_epochs": epochs, "max_steps": steps, "limit_val_batches": 0}
        chosen: Any = {"gradient_clip_val": clip, "precision": precision}
        trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), **chosen, **limits, **off)
        trainer.fit(module, datamodule=data)
    return trainer.global_step


class Losses(Callback):
    """Keeps the loss of each training step, in `values`; NaN where the step was skipped."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *_: Any) -> None:
        """After each step."""
        self.values.append(outputs["loss"].item() if outputs else math.nan)
