"""Settings of a run that its types let pass: names that do not exist, numbers out of their range."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from deqzoo.atomic import whole_file
from deqzoo.config import Mode, RunConfig, nearest
from deqzoo.errors import ConfigError
from deqzoo.paths import names
from deqzoo.zoo.folder import METRICS

Test = Callable[[Any], bool]
_MOST_THREADS = 1024  # OpenMP ends the process where it cannot start them

_POSITIVE: tuple[Test, str] = (lambda x: 0 < x < math.inf, "a number above 0")
_NOT_NEGATIVE: tuple[Test, str] = (lambda x: 0 <= x < math.inf, "a number, 0 or above")
_COUNT: tuple[Test, str] = (lambda x: x >= 1, "1 or more")
_SHARE: tuple[Test, str] = (lambda x: 0 <= x <= 1, "between 0 and 1")
_BELOW_ONE: tuple[Test, str] = (lambda x: 0 <= x < 1, "0 or above, and below 1")
_PART: tuple[Test, str] = (
    lambda x: _is_number(x) and (x >= 0 if isinstance(x, int) else 0 <= x <= 1),
    "a number of batches (3), or a share of them (0.1, at most 1.0)",
)
RANGES: dict[str, tuple[Test, str]] = {
    "seed": (lambda x: 0 <= x < 2**32, "in [0, 2^32)"),
    "threads": (lambda x: 1 <= x <= _MOST_THREADS, f"1 or more, and {_MOST_THREADS} at most"),
    "save_every_n_steps": _COUNT,
    "model.lr": _POSITIVE,
    "model.weight_decay": _NOT_NEGATIVE,
    "model.momentum": _BELOW_ONE,
    "model.ema_decay": _BELOW_ONE,
    "model.warmup": _SHARE,
    "trainer.max_epochs": (lambda x: x >= 1 or x == -1, "1 or more, or -1 for no limit"),
    "trainer.max_steps": (lambda x: x >= 1 or x == -1, "1 or more, or -1 for no limit"),
    "trainer.accumulate_grad_batches": _COUNT,
    "trainer.check_val_every_n_epoch": _COUNT,
    "trainer.log_every_n_steps": _COUNT,
    "trainer.gradient_clip_val": _NOT_NEGATIVE,
    "trainer.num_nodes": _COUNT,
    "trainer.num_sanity_val_steps": (lambda x: x >= -1, "0 or more batches, or -1 for all"),
    "trainer.limit_train_batches": _PART,
    "trainer.limit_val_batches": _PART,
    "trainer.limit_test_batches": _PART,
    "trainer.overfit_batches": _PART,
    "trainer.devices": (
        lambda x: x != 0 and (not isinstance(x, int) or x >= -1),
        "a number, 1 or more, or a list of devices, or -1 for all",
    ),
    "trainer.val_check_interval": (
        lambda x: x > 0 if _is_number(x) else re.fullmatch(r"\d+:\d+:\d+:\d+", str(x)) is not None,
        "a number of steps (100), a share of an epoch (0.25), or a time as 00:00:30:00",
    ),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def checked(config: DictConfig, folder: Path) -> RunConfig:
    """The typed settings of a run in a folder, after the checks that no single field can make."""
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), config))
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
    assert isinstance(settings, RunConfig)
    _check_names(config, settings)
    for name, (fits, what) in RANGES.items():
        value = OmegaConf.select(config, name)
        if value is not None and not fits(value):
            raise ConfigError(f"{name}={value}: it must be {what}.")
    devices, processors = settings.trainer.devices, os.cpu_count() or 1
    if isinstance(devices, int) and devices > max(2, processors):  # each a process of its own
        raise ConfigError(f"trainer.devices={devices}: this machine has {processors} processors.")
    if settings.mode is Mode.test and settings.ckpt is None:
        raise ConfigError("mode=test needs weights: ckpt=pretrained, or ckpt=PATH of a checkpoint folder.")
    model = settings.model
    for entry in filter(None, [getattr(model, "baseline", None), *getattr(model, "baselines", [])]):
        if entry not in names("models") and not Path(entry).is_dir():
            raise ConfigError(f"the baseline {entry!r} is neither an entry of the zoo nor a checkpoint folder.")
    _check_folder(settings, folder)
    return settings


def _check_names(config: DictConfig, settings: RunConfig) -> None:
    """Hydra's ``+name=value`` adds a setting that nothing reads."""
    for group in ("", "trainer", "model", "data"):
        typed = getattr(settings, group) if group else settings
        if not dataclasses.is_dataclass(typed):
            continue
        valid = {field.name for field in dataclasses.fields(typed)}
        for name in {str(key) for key in (config[group] if group else config)} - valid - {"hydra"}:
            full, prefix = f"{group}.{name}".lstrip("."), f"{group}.".lstrip(".")
            listed = sorted(prefix + other for other in valid)
            raise ConfigError(f"there is no setting {full!r}; valid are {', '.join(listed)}.{nearest(full, listed)}")


def _check_folder(settings: RunConfig, folder: Path) -> None:
    used = [name for name in ("last.ckpt", METRICS, "stage_1") if (folder / name).exists()]
    if settings.mode is Mode.fit and settings.resume is None and used:
        raise ConfigError(
            f"{folder} holds a run already ({', '.join(used)}): resume it by `resume={folder}`, or give "
            "another hydra.run.dir."
        )
    if settings.resume is not None and next(folder.rglob("last.ckpt"), None) is None:
        raise ConfigError(f"{folder} has no last.ckpt to go on from: start the run anew.")
    try:
        with whole_file(folder / ".writable") as part:
            part.touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written: {error.strerror}. Give another folder, hydra.run.dir=DIR."
        ) from error
