"""Whether a run was its entry's recipe as it stands: only then its command makes its number."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from deqzoo.config import load_run, to_plain
from deqzoo.errors import CheckpointError
from deqzoo.paths import head
from deqzoo.training.stages import composed_of

_OF_NO_NUMBER = {  # where the data lie, on what the run is, and what is shown of it
    "data": {"root", "download", "device_cache"},
    "trainer": {
        *("accelerator", "devices", "strategy", "num_nodes", "max_time", "deterministic", "benchmark"),
        *("log_every_n_steps", "num_sanity_val_steps", "detect_anomaly", "profiler", "enable_progress_bar"),
    },
}


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
        raise CheckpointError(
            f"{run} was not models/{config.entry}.yaml as it stands: {'; '.join(differ)}. Train it by its recipe, or "
            "say in the recipe's head comment how it was trained: `# Trained: ...`."
        )
    return settings


def _differences(run: Any, recipe: Any, name: str = "") -> list[str]:
    if isinstance(run, dict) and isinstance(recipe, dict):
        keys = sorted(run.keys() | recipe.keys())
        return [line for key in keys for line in _differences(run.get(key), recipe.get(key), f"{name}.{key}")]
    return [] if run == recipe else [f"{name.lstrip('.')} was {run}, not {recipe}"]
