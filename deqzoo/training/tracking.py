"""Weights & Biases or TensorBoard beside ``metrics.csv`` (``logger=wandb``, ``logger=tensorboard``)."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from deqzoo.errors import ConfigError


def wandb_logger(folder: Path, entry: str, config: dict[str, Any]) -> Logger:
    """A logger to the project ``deqzoo``; its files lie in the run's folder.

    A resumed run goes on in the same W&B run. Online without a key it is a `ConfigError`.
    """
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not wandb.api.api_key:
        raise ConfigError(
            "logger=wandb is online and has no key: run `wandb login`, or set WANDB_API_KEY, or set "
            "WANDB_MODE=offline (`wandb sync` uploads the run later)."
        )
    run_id = f"{entry}-{folder.name}".replace("/", "-")
    logger = WandbLogger(project="deqzoo", name=run_id, id=run_id, save_dir=folder, resume="allow")
    logger.log_hyperparams(config)
    return logger


def tensorboard_logger(folder: Path) -> Logger:
    """A logger to ``tensorboard/`` in the run's folder; `tensorboard --logdir outputs` shows it."""
    from lightning.pytorch.loggers import TensorBoardLogger

    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("logger=tensorboard needs a package: pip install 'deqzoo[tensorboard]'.")
    return TensorBoardLogger(folder, name="tensorboard", version="")
