"""Whether a run is its entry's recipe as it stands: only then its command makes its number."""

import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from deqzoo.config import load_run, to_plain
from deqzoo.errors import CheckpointError
from deqzoo.paths import head, zoo_path
from deqzoo.training.stages import composed_of

_OF_NO_NUMBER = {  # where the data lie, on what the run is, and what is shown of it
    "data": {"root", "download", "device_cache"},
    "trainer": {
        *("accelerator", "devices", "strategy", "num_nodes", "max_time", "deterministic", "benchmark"),
        *("log_every_n_steps", "num_sanity_val_steps", "detect_anomaly", "profiler", "enable_progress_bar"),
    },
}

_LENGTHS = {"trainer.max_epochs", "trainer.max_steps"}
_OF_A_RESUME = ("model=", "hydra.", "resume=")


def decisive(config: DictConfig) -> dict[str, Any]:
    """The settings of a run on which its number depends, but for the seed."""
    plain = to_plain(config)
    found = {name: plain[name] for name in ("stages", "model", "data", "trainer")}
    for name, others in _OF_NO_NUMBER.items():
        found[name] = {key: value for key, value in found[name].items() if key not in others}
    return found


def of_recipe(entry: str) -> dict[str, Any]:
    """The same settings of `models/ENTRY.yaml`.

    >>> of_recipe("deq_digits")["data"]["name"]
    'digits'
    """
    return decisive(composed_of([f"model={entry}"]))


def check_recipe(run: Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        CheckpointError: they are not those of its recipe, whose head comment does not say so either.
    """
    config = load_run(run)
    settings, recipe = decisive(config), of_recipe(config.entry)
    if (differ := _differences(settings, recipe)) and not head(config.entry, "Trained"):
        told = "; ".join(f"{name} was {old}, not {new}" for name, old, new in differ)
        raise CheckpointError(
            f"{run} was not models/{config.entry}.yaml as it stands: {told}. Train it by its recipe, or "
            "say in the recipe's head comment how it was trained: `# Trained: ...`."
        )
    return settings


def warn_of_changes(config: DictConfig) -> None:
    """Warn where a run that goes on has other settings than its words would give it today; lengths do not count.

    Args:
        config: of the run, with the words of all its command lines in ``overrides``; they are laid over the recipe.
    """
    if not (zoo_path("models") / f"{config.entry}.yaml").is_file():
        return  # it was trained by a recipe that is there no more
    words = {word.partition("=")[0]: word for word in config.overrides if not word.startswith(_OF_A_RESUME)}
    today = decisive(composed_of([f"model={config.entry}", *words.values()]))
    if differ := [x for x in _differences(decisive(config), today) if x[0] not in _LENGTHS]:
        told = "; ".join(f"{name}: {old} -> {new}" for name, old, new in differ)
        warnings.warn(
            f"the run goes on with the settings of its config.yaml; what models/{config.entry}.yaml or data/ has now "
            f"in their place is not used: {told}. For that start a new run, or say it: {differ[0][0]}={differ[0][2]}.",
            stacklevel=2,
        )


def _differences(run: Any, recipe: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Name, value in the run, and value in the recipe, of each setting that differs."""
    if isinstance(run, dict) and isinstance(recipe, dict):
        keys = sorted(run.keys() | recipe.keys())
        return [line for key in keys for line in _differences(run.get(key), recipe.get(key), f"{name}.{key}")]
    return [] if run == recipe else [(name.lstrip("."), run, recipe)]
