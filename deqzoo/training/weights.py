"""The weights that ``ckpt=`` names: shipped ones, a checkpoint folder, or a ``last.ckpt``."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.errors import CheckpointError
from deqzoo.models import SolverModule
from deqzoo.models.common.head import ClassifierNetwork, last_linear
from deqzoo.zoo.folder import METRICS
from deqzoo.zoo.loading import find_checkpoint, load_weights, read_checkpoint


def initial_weights(module: SolverModule, ckpt: str, entry: str, new_head: bool = False) -> None:
    """Put them into ``module``, and into its moving average. What does not fit is a `CheckpointError`.

    With ``new_head`` a classifier may have other classes than the weights: its last layer then stays as it is, which
    is told.
    """
    path = Path(ckpt)
    if path.is_file() and path.suffix == ".ckpt":
        weights = _from_training(path)
    else:
        weights = read_checkpoint(_checkpoint(ckpt, entry)).weights
    if new_head:
        weights = _with_own_head(module.network, weights, ckpt)
    where = f"model={entry} with these settings"
    load_weights(module.network, weights, where)
    module.from_weights = True
    if module.average is not None:
        load_weights(module.average.module, weights, where)


def earlier_training(ckpt: str, entry: str) -> dict[str, Any] | None:
    """How these weights were trained, as their ``metrics.json`` has it: command, steps, time in s, hardware.

    None where that is not known: of a ``last.ckpt``, or when a resumed run's checkpoint is there no more.
    """
    try:
        metrics = json.loads((find_checkpoint(_checkpoint(ckpt, entry)) / METRICS).read_text())
    except (CheckpointError, OSError):
        return None
    return of_training(metrics)


def of_training(metrics: dict[str, Any]) -> dict[str, Any]:
    """Of a run's metrics, how it was trained."""
    return {key: metrics[key] for key in ("command", "steps", "time", "hardware", "started_from") if key in metrics}


def _checkpoint(ckpt: str, entry: str) -> str:
    """What `find_checkpoint` takes: an entry's name or a folder; of a run's folder, the export inside."""
    export = Path(ckpt) / "export"
    return entry if ckpt == "pretrained" else str(export) if export.is_dir() else ckpt


def _with_own_head(network: nn.Module, weights: Mapping[str, Tensor], ckpt: str) -> dict[str, Tensor]:
    """The weights, with the network's own last layer in place of one that differs in the number of classes alone."""
    weights = dict(weights)
    if not isinstance(network, ClassifierNetwork):
        return weights
    name, layer = last_linear(network)
    old = weights.get(f"{name}.weight")
    if old is None or old.ndim != 2 or len(old) == len(layer.weight) or old.shape[1:] != layer.weight.shape[1:]:
        return weights
    own = {f"{name}.{key}": value for key, value in layer.state_dict().items()}
    if not weights.keys() >= own.keys():
        return weights
    print(f"ckpt={ckpt} has {len(old)} classes: the last layer, of {len(layer.weight)}, starts anew", flush=True)
    return weights | own


def _from_training(path: Path) -> dict[str, Tensor]:
    """The trained network's tensors in a Lightning checkpoint: the moving average, if it has one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); is it a last.ckpt of deqzoo?") from error
    averaged = any(key.startswith("average.module.") for key in state)
    prefix = "average.module." if averaged else "network."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
