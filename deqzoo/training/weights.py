"""The weights that ``ckpt=`` names: the entry's shipped ones, a checkpoint folder, or a ``last.ckpt``."""

import pickle
from pathlib import Path

import torch

from deqzoo.models import SolverModule
from deqzoo.zoo.folder import CheckpointError
from deqzoo.zoo.loading import load_weights, read_checkpoint


def initial_weights(module: SolverModule, ckpt: str, entry: str) -> None:
    """Put them into ``module``, and into its moving average. What does not fit is a `CheckpointError`."""
    path = Path(ckpt)
    if path.is_file() and path.suffix == ".ckpt":
        weights = _from_training(path)
    else:
        if (path / "export").is_dir():  # a run's folder
            path = path / "export"
        weights = read_checkpoint(entry if ckpt == "pretrained" else path).weights
    where = f"model={entry} with these settings"
    load_weights(module.network, weights, where)
    if module.average is not None:
        load_weights(module.average.module, weights, where)


def _from_training(path: Path) -> dict[str, torch.Tensor]:
    """The trained network's tensors in a Lightning checkpoint: the moving average, if it has one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); is it a last.ckpt of deqzoo?") from error
    averaged = any(key.startswith("average.module.") for key in state)
    prefix = "average.module." if averaged else "network."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
