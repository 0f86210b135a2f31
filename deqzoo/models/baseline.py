"""The shipped entry that a recipe names as its explicit baseline."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deqzoo.config import names

if TYPE_CHECKING:
    from deqzoo.zoo.folder import Contents


def shipped_baseline(entry: str | None, data: Any) -> "Contents | None":
    """The checkpoint of the entry or folder, where one is named, has been trained, and on the same data; else None.

    Args:
        data: the data module of the run that names it; with other features, say, its data are others.
    """
    from deqzoo.zoo.loading import read_checkpoint
    from deqzoo.zoo.shipped import shipped

    if entry is None:
        return None
    if entry in names("models") and entry not in shipped():  # it has not been trained yet
        return None
    contents = read_checkpoint(entry)
    if contents.metrics["data"] != data.options.name:
        return None
    theirs = type(data.info).from_json(contents.config["data"])  # an older file lacks newer fields: their defaults
    return contents if _rounded(theirs.to_json()) == _rounded(data.info.to_json()) else None


def _rounded(values: Any) -> Any:
    """With numbers, such as means of the training data, to four digits: the last ones depend on the machine."""
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_rounded(value) for value in values]
    return f"{values:.4g}" if isinstance(values, float) else values


def baseline_accuracy(entry: str | None, data: Any) -> dict[str, Any] | None:
    """Test accuracy of the `shipped_baseline`, and what it cost."""
    if (contents := shipped_baseline(entry, data)) is None:
        return None
    return {"entry": entry, "accuracy": contents.metrics["test"]["accuracy"], **baseline_costs(contents.metrics)}


def baseline_costs(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Parameters, and the steps and time (s) of the whole training."""
    from deqzoo.zoo.cards import total

    return {"parameters": metrics["parameters"], **{cost: total(cost, metrics) for cost in ("steps", "time")}}


def baseline_row(found: dict[str, Any], tested: str) -> tuple[str, str, str]:
    """What the card says of a `baseline_accuracy`, measured on the ``tested``."""
    cost = f"{found['parameters']:,} parameters, {found['steps']:,} steps"
    return f"explicit baseline `{found['entry']}` ({cost}), all {tested}", f"{100 * found['accuracy']:.2f} %", ""
