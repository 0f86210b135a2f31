"""Runs of ``train.py``'s parts in process: small networks, few steps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from hydra import compose, initialize
from omegaconf import DictConfig

from deqzoo import config
from deqzoo.training import Run

ROOT = Path(__file__).parents[1]
SMALL = [
    "model.widths=[8]",
    "model.solver_options.max_steps=5",
    "data.eval_batch_size=512",
    "data.batch_size=128",
    "trainer.enable_progress_bar=False",
]
UNBOUNDED = ["model=deq_digits_unbounded", "model.entry_groups=4", "model.cell_options.groups=4"]
TWO_EPOCHS = [*SMALL, "trainer.max_epochs=2", "trainer.log_every_n_steps=2"]  # of nine steps


def composed(*overrides: str) -> DictConfig:
    """What Hydra composes from the words of a command line."""
    config.register(overrides)
    with initialize(version_base="1.3", config_path=None):
        return compose("run", list(overrides))


def run(folder: Path, *overrides: str) -> Run:
    """The whole course of ``train.py``, but for its report."""
    settings = composed(*overrides)
    settings.overrides = list(overrides)
    started = Run(settings, folder)
    started.fit()
    started.test()
    started.export()
    return started


def train_py(*words: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess:
    """``python train.py WORDS`` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | env
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=check)


def killed_after(step: int, *words: str, cwd: Path) -> Path:
    """``python train.py WORDS``, all of its processes killed once ``last.ckpt`` is of this step; the run's folder."""
    command, environment = [sys.executable, str(ROOT / "train.py"), *words], os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True)
    while process.poll() is None:
        found = list(cwd.glob("outputs/deq_digits/*/last.ckpt"))
        if found and torch.load(found[0], weights_only=True)["global_step"] >= step:
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL
    (folder,) = cwd.glob("outputs/deq_digits/*")
    return folder


def to_plain_model(run_config: DictConfig) -> dict:
    """The ``model`` section of a configuration, as ``config.json`` has it."""
    return config.to_plain(run_config.model)
