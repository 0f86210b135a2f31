"""Trainings in stages: the configurations of what a recipe trains first."""

import contextlib
import shlex
from collections.abc import Iterable

from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from deqzoo import config

SHARED = ("seed=", "logger=", "threads=", "save_every_n_steps=", "data.root=", "trainer.")  # with another entry's stage
OWN = ("hydra.", "ckpt=", "mode=", "model=", "resume=", "stages=")  # words that concern the whole run


def stage_config(entry: str, stage: str, overrides: Iterable[str]) -> DictConfig:
    """What a stage of ``entry``'s training runs, the words of the command line on top.

    Args:
        stage: as in a recipe's ``stages``, the words of a command line: settings of this stage that are not the
            recipe's, or ``model=NAME``, another entry, which is trained with its own stages.
        overrides: the words of the run's command line. Of another entry's stage they change the seed, the trainer and
            where the data are, not its model.
    """
    words, other = shlex.split(stage), False
    if any(word.startswith("model=") for word in words):
        other = True
    else:
        words = [f"model={entry}", "stages=[]", *words]
    words += [word for word in overrides if (word.startswith(SHARED) if other else not word.startswith(OWN))]
    config.register(words)
    inside = GlobalHydra.instance().is_initialized()  # in a run of train.py
    with contextlib.nullcontext() if inside else initialize(version_base="1.3", config_path=None):
        composed = compose("run", words)
    composed.overrides = [word for word in words if not word.startswith("model=")]
    return composed
