"""A checkpoint folder on disk: read with every check there is, written whole or not at all.

Anyone may have written a folder that is read: whatever is wrong with it is a `CheckpointError`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from deqzoo.atomic import whole_folder
from deqzoo.errors import CheckpointError
from deqzoo.zoo.conversions import FORMAT, convert

WEIGHTS, CONFIG, METRICS, GOLDEN, CARD = FILES = (
    "model.safetensors",
    "config.json",
    "metrics.json",
    "golden.safetensors",
    "README.md",
)
OUTPUT, _OLD_OUTPUT = "output", "logits"  # the golden output's name, and that in files of the first version
_CONFIG_KEYS = {"format", "name", "model", "data", "weights"}
_OBJECTS = tuple((key, dict, "an object") for key in ("model", "data"))
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Contents:
    """What a checkpoint folder holds, but for the golden tensors and the card."""

    config: dict[str, Any]
    metrics: dict[str, Any]
    weights: dict[str, Tensor]


@contextmanager
def checkpoint_errors(what: str) -> Iterator[None]:
    """Inside, every error is a `CheckpointError`; of others than such, the message begins with ``what``.

    >>> with checkpoint_errors("mine/config.json"):
    ...     [][0]
    Traceback (most recent call last):
    deqzoo.errors.CheckpointError: mine/config.json: list index out of range
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error


def read_folder(folder: Path) -> Contents:
    """Read and check a checkpoint folder."""
    with checkpoint_errors(f"{folder} cannot be read"):
        return _read_folder(folder)


def _read_folder(folder: Path) -> Contents:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a checkpoint folder. Give the folder that a run writes to its export/.")
    if missing := [name for name in (WEIGHTS, CONFIG, METRICS) if not (folder / name).is_file()]:
        hint = f" There is {folder / 'export'}: load that." if (folder / "export").is_dir() else ""
        raise CheckpointError(f"{folder} is an incomplete checkpoint folder: it lacks {', '.join(missing)}.{hint}")
    config, metrics = _checked_config(folder), _read_json(folder / METRICS)
    config, weights = convert(config, _read_weights(folder / WEIGHTS, config["weights"]))
    return Contents(config, metrics, weights)


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint folder, as it is written today."""
    with checkpoint_errors(f"{folder} cannot be read"):
        return convert(_checked_config(folder), {})[0]


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    golden: Mapping[str, Tensor],
    card: str,
) -> None:
    """Write a checkpoint folder; ``config`` gets its ``format`` and the fingerprint of the weights here."""
    with whole_folder(folder) as part:
        safetensors.torch.save_file(dict(weights), part / WEIGHTS)
        safetensors.torch.save_file(dict(golden), part / GOLDEN)
        write_json(part / CONFIG, {"format": FORMAT, **config, "weights": fingerprint(part / WEIGHTS)})
        write_json(part / METRICS, metrics)
        (part / CARD).write_text(card)
        for path in part.iterdir():
            path.chmod(0o644)  # safetensors writes files that others may not read


def read_golden(folder: Path) -> tuple[dict[str, Tensor], Tensor]:
    """The golden input of a checkpoint folder, by the names of the network's arguments, and the output for it."""
    golden = _load_tensors(folder / GOLDEN)
    output = golden.pop(OUTPUT if OUTPUT in golden else _OLD_OUTPUT)
    return golden, output


def fingerprint(path: Path) -> dict[str, Any]:
    """sha256 and size (bytes) of a file."""
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def check_fingerprint(path: Path, expected: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` unless the file is the one that was written."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing. Restore the folder from where it came.")
    found = fingerprint(path)
    if found["size"] != expected["size"]:
        what = "truncated" if found["size"] < expected["size"] else "too long"
        sizes = f"{found['size']:,} bytes instead of {expected['size']:,}"
        raise CheckpointError(f"{path} is {what}: {sizes}. Restore it from where it came.")
    if found["sha256"] != expected["sha256"]:
        raise CheckpointError(f"{path} was altered: its sha256 is not the recorded one. Restore it.")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """JSON as people like to read it, with a newline at its end."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _checked_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of any format that can be read."""
    config = _read_json(folder / CONFIG)
    if set(config) != _CONFIG_KEYS:
        wrong = ", ".join(sorted(set(config) ^ _CONFIG_KEYS))
        valid = ", ".join(sorted(_CONFIG_KEYS))
        raise CheckpointError(f"{folder / CONFIG} has unknown or missing keys: {wrong}. It has {valid}.")
    for key, kind, name in (("format", int, "a number"), ("name", str, "a string"), *_OBJECTS):
        if type(config[key]) is not kind:
            raise CheckpointError(f"{folder / CONFIG}: {key} should be {name}, got {config[key]!r:.50}. Restore it.")
    if config["format"] not in range(1, FORMAT + 1):
        raise CheckpointError(
            f"{folder / CONFIG} has format {config['format']}; this deqzoo reads 1 to {FORMAT}. Update deqzoo."
        )
    if (found := _interpolation(config["model"])) is not None:
        raise CheckpointError(
            f"{folder / CONFIG}: model has {found!r:.50}; a checkpoint gives values, and ${{...}}, which could read "
            "environment variables, is refused. Write the value out."
        )
    return config


def _interpolation(value: Any) -> str | None:
    """The first string inside that OmegaConf would take for a reference to something else."""
    if isinstance(value, str):
        return value if "${" in value else None
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((found for each in inner if (found := _interpolation(each)) is not None), None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}). Restore it from where it came.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} should hold a JSON object. Restore it from where it came.")
    return values


def _read_weights(path: Path, expected: Any) -> dict[str, Tensor]:
    with path.open("rb") as file:
        start = file.read(9)  # of safetensors: the length of a JSON header, and its first brace
        if start.startswith(_PICKLE_STARTS) and start[8:] != b"{":
            raise CheckpointError(
                f"{path} is a pickle (torch.save), which can run any code when it is read; deqzoo reads "
                "safetensors only. Write the folder anew with deqzoo.export(module, folder, metrics)."
            )
    if not isinstance(expected, dict) or set(expected) != {"sha256", "size"}:
        raise CheckpointError(f"{path.with_name(CONFIG)}: weights should have sha256 and size. Restore it.")
    check_fingerprint(path, expected)
    weights = _load_tensors(path)
    for name, value in weights.items():
        if value.is_floating_point() and value.dtype.itemsize < 2:
            raise CheckpointError(f"{path}: {name} is {value.dtype}, which is not read. Export it anew.")
        if value.is_complex() or not value.isfinite().all():
            what = "complex numbers" if value.is_complex() else "NaN or infinite values"
            raise CheckpointError(f"{path} has {what} in {name}: no weights of a network. Export it anew.")
    return weights


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(path.read_bytes())
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({error}). Restore it.") from error
