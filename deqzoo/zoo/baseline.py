"""The trained entry that a recipe names as its baseline."""

from typing import Any

from deqzoo.models.common.kind import Baseline
from deqzoo.paths import names
from deqzoo.zoo.loading import load_contents, read_checkpoint
from deqzoo.zoo.shipped import shipped


def find_baseline(entry: str | None, data: Any) -> Baseline | None:
    """The checkpoint of the entry or folder, where one is named, has been trained, and on the same data; else None.

    Args:
        data: the data module of the run that names it; with other features, say, its data are others.
    """
    if entry is None:
        return None
    if entry in names("models") and entry not in shipped():  # it has not been trained yet
        return None
    contents = read_checkpoint(entry)
    if contents.metrics["data"] != data.options.name:
        return None
    theirs = type(data.info).from_json(contents.config["data"])  # an older file lacks newer fields: their defaults
    if _rounded(theirs.to_json()) != _rounded(data.info.to_json()):
        return None
    return Baseline(entry, contents.metrics, lambda device: load_contents(contents, device=device, trainable=False))


def _rounded(values: Any) -> Any:
    """With numbers, such as means of the training data, to four digits: the last ones depend on the machine."""
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_rounded(value) for value in values]
    return f"{values:.4g}" if isinstance(values, float) else values
