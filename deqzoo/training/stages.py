"""Trainings in stages: the configurations of what a recipe trains first."""

import contextlib
import shlex
from collections.abc import Iterable

from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from deqzoo import config

OF_THE_RUN = ("model=", "hydra.", "ckpt=", "mode=", "resume=", "stages=")  # words that concern no stage


def stage_config(entry: str, stage: str, overrides: Iterable[str]) -> DictConfig:
    """What a stage of ``entry``'s training runs.

    Args:
        stage: as in a recipe's ``stages``, the words of a command line: settings of this stage that are not the
            recipe's, or ``model=NAME``, another entry, which is trained with its own stages.
        overrides: the words of the run's command line. They stand above those of the stage.
    """
    words = shlex.split(stage)
    if not any(word.startswith("model=") for word in words):
        words = [f"model={entry}", "stages=[]", *words]
    words += [word for word in overrides if not word.startswith(OF_THE_RUN)]
    composed = composed_of(words)
    composed.overrides = [word for word in words if not word.startswith("model=")]
    return composed


def composed_of(words: list[str]) -> DictConfig:
    """The configuration that ``python train.py WORDS`` has."""
    config.register(words)
    inside = GlobalHydra.instance().is_initialized()  # in a run of train.py
    with contextlib.nullcontext() if inside else initialize(version_base="1.3", config_path=None):
        return compose("run", words)
