"""The shipped entry that a recipe names as its explicit baseline."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqzoo.zoo.folder import Contents


def shipped_baseline(entry: str | None, data: str) -> "Contents | None":
    """The checkpoint of the entry, where one is named, has been trained, and on the same data; else None."""
    from deqzoo.zoo import CheckpointError
    from deqzoo.zoo.loading import read_checkpoint

    if entry is None:
        return None
    try:
        contents = read_checkpoint(entry)
    except CheckpointError:  # it has not been trained yet
        return None
    return contents if contents.metrics["data"] == data else None


def baseline_accuracy(entry: str | None, data: str) -> dict[str, Any] | None:
    """Test accuracy of the `shipped_baseline`, and what it cost."""
    if (contents := shipped_baseline(entry, data)) is None:
        return None
    metrics = contents.metrics
    costs = {name: metrics[name] for name in ("parameters", "steps")}
    return {"entry": entry, "accuracy": metrics["test"]["accuracy"], **costs}


def baseline_row(found: dict[str, Any], tested: str) -> tuple[str, str, str]:
    """What the card says of a `baseline_accuracy`, measured on the ``tested``."""
    cost = f"{found['parameters']:,} parameters, {found['steps']:,} steps"
    return f"explicit baseline `{found['entry']}` ({cost}), all {tested}", f"{100 * found['accuracy']:.2f} %", ""
