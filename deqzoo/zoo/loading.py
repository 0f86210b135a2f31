"""`list_models`, `load` and `export`."""

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from deqzoo.config import model_config, to_plain
from deqzoo.errors import CheckpointError
from deqzoo.models.build import build_network
from deqzoo.models.common.head import ClassifierNetwork
from deqzoo.models.meta.learner import MetaLearner
from deqzoo.models.registry import kind_of
from deqzoo.nn import IMAML
from deqzoo.paths import names
from deqzoo.zoo.cards import model_card
from deqzoo.zoo.folder import CONFIG, OUTPUT, Contents, checkpoint_errors, read_folder, write_folder
from deqzoo.zoo.hub import SCHEME, hub_folder
from deqzoo.zoo.shipped import shipped, shipped_folder

HALF_ABOVE = 2_000_000  # parameters: above, weights are stored in float16, so that the file stays under 10 MB
MOST_PARTS = 100  # parameters that a network may register while it is built, beside ten for each of its weights


def list_models(pattern: str = "*", *, pretrained: bool | None = None) -> list[str]:
    """Entries of the zoo that match a shell ``pattern``, sorted; if asked, only those with (without) weights.

    >>> "deq_digits" in list_models("deq*")
    True
    """
    with_weights = set(shipped())
    found = fnmatch.filter(names("models"), pattern)
    return [name for name in found if pretrained is None or (name in with_weights) == pretrained]


def load(
    name: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    solver: str | None = None,
    tol: float | None = None,
    max_steps: int | None = None,
    classes: int | Sequence[str] | None = None,
    trainable: bool = True,
) -> nn.Module:
    """A trained model, in eval mode. It takes raw inputs: its card says which; a classifier has ``.classes``.

    Its parameters require gradients as in training: `model.train()`, an optimiser and a loop fine-tune it. Gradients
    are exact, whichever gradient a DEQ was trained with. `model.features(x)` is what the last linear layer is given,
    for networks that have one.

    Args:
        name: a shipped entry (``list_models(pretrained=True)``), the path of a checkpoint folder, or an address of the
            Hugging Face Hub, ``hf://OWNER/NAME@REVISION`` (needs ``deqzoo[hub]``).
        device: where it is to run.
        dtype: of the parameters, and of the inputs that it takes; None: float32.
        solver: of the forward pass, by name; None: the recipe's.
        tol: of that solver, to trade accuracy for cost; None: the recipe's. Of an ODE solver it sets rtol and atol.
        max_steps: a budget, whether the tolerance is met with it or not; None: the recipe's, or with another solver or
            tolerance the solver's own default, if that is larger; a solve that does not converge warns then.
        classes: names of other classes, or their number: the last linear layer is a new one, see `reset_head`.
        trainable: False: its parameters require no gradients, but for those of a new last layer.

    Raises:
        CheckpointError: for an unknown name, and for a folder that is incomplete, damaged or altered.

    >>> model = load("deq_digits", classes=["even", "odd"])
    >>> model(torch.rand(3, 1, 8, 8)).shape, model.training, all(p.requires_grad for p in model.head.parameters())
    (torch.Size([3, 2]), False, True)
    """
    return load_contents(
        read_checkpoint(name),
        device=device,
        dtype=dtype,
        solver=solver,
        tol=tol,
        max_steps=max_steps,
        classes=classes,
        trainable=trainable,
    )


def read_checkpoint(name: str | os.PathLike[str]) -> Contents:
    """What a shipped checkpoint or a checkpoint folder holds, checked."""
    with checkpoint_errors(f"{name!r} cannot be read"):
        return read_folder(find_checkpoint(name))


def load_contents(
    contents: Contents,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    solver: str | None = None,
    tol: float | None = None,
    max_steps: int | None = None,
    classes: int | Sequence[str] | None = None,
    trainable: bool = True,
) -> nn.Module:
    """The network of a checkpoint that was read already; as `load`."""
    config, where = contents.config, f"{contents.config['name']}/{CONFIG}"
    if not (dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point)):
        raise CheckpointError(f"dtype={dtype!r}: give torch.float32, float64, bfloat16 or float16.")
    with checkpoint_errors("the model cannot be built"):
        model: Any = OmegaConf.to_object(model_config(config["model"], f"{where}: model"))
        kind = kind_of(model.kind)
        kind.for_use(model, solver, tol, max_steps)
        data = kind.info.from_json(config["data"])
        with torch.device("meta"), _at_most(MOST_PARTS + 10 * len(contents.weights)):  # where nothing is allocated
            check_weights(build_network(model, data), contents.weights, where)
        network = build_network(model, data)
    load_weights(network, contents.weights, where)
    if max_steps is None and (solver, tol) != (None, None):  # not what the entry was tested with
        _warn_of_failures(network)
    network.eval()
    if not trainable:
        network.requires_grad_(False)
    try:
        if classes is not None:
            _with_classes(network, classes)
        return network.to(device, dtype)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{config['name']}: {error}.") from error


def _with_classes(network: nn.Module, classes: int | Sequence[str]) -> None:
    if not isinstance(network, ClassifierNetwork):
        raise ValueError(f"a {type(network).__name__} has no last layer of classes to exchange; leave out classes=")
    network.reset_head(classes)


def _warn_of_failures(network: nn.Module) -> None:
    for layer in network.modules():
        if hasattr(layer, "on_failure"):
            layer.on_failure = "warn"  # type: ignore[assignment]
        elif isinstance(layer, MetaLearner) and isinstance(layer.method, IMAML):
            layer.method = replace(layer.method, on_failure="warn")


@contextmanager
def _at_most(parts: int) -> Iterator[None]:
    """Inside, networks may register that many parameters: one of a billion layers would be built for hours."""
    count = 0

    def look(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > parts:
            raise CheckpointError(f"the recipe's network has more than {parts} parameters, far more than its weights.")

    hook = register_module_parameter_registration_hook(look)
    try:
        yield
    finally:
        hook.remove()


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Put ``weights`` into ``network``; names or shapes that do not fit are a `CheckpointError`."""
    check_weights(network, weights, where)
    own = network.state_dict()
    network.load_state_dict({key: value.to(own[key].dtype) for key, value in weights.items()})


def check_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Names or shapes that do not fit are a `CheckpointError`; ``network`` may lie on the meta device."""
    own = network.state_dict()
    wrong = sorted(set(own) ^ set(weights))
    wrong += [key for key in own if key in weights and own[key].shape != weights[key].shape]
    for key in set(own) & set(weights):
        if own[key].is_floating_point() and not weights[key].is_floating_point():
            raise CheckpointError(
                f"{key} of the weights is {weights[key].dtype}, where {where} has floats. Export it anew."
            )
    if wrong:
        listed = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise CheckpointError(
            f"the weights do not fit the network of {where}: names or shapes differ in {listed}. "
            "Use the weights together with the settings they were trained with."
        )


def export(
    module: nn.Module,
    folder: str | os.PathLike[str],
    metrics: Mapping[str, Any],
    *,
    inputs: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint folder that `load` takes, whole or not at all.

    Args:
        module: a network of `deqzoo.models.build_network`, or the LightningModule that trained one.
        folder: where to; one that is there already is replaced.
        metrics: what goes to ``metrics.json``; its ``entry`` is the checkpoint's name, else the folder's is.
        inputs: the golden input, by the names of the network's arguments; None: noise, where the kind can make some.

    The weights are stored as float16 if the network has more than two million parameters, else as they are.
    """
    folder = Path(folder)
    network = getattr(module, "trained_network", module)
    recipe = getattr(network, "recipe", None)
    if recipe is None:
        raise CheckpointError("export needs a network of deqzoo.models.build_network, which knows its recipe.")
    model, data = recipe
    config = {
        "name": str(metrics.get("entry", folder.name)),
        "model": to_plain(OmegaConf.structured(model)),
        "data": data.to_json(),
    }
    inputs = kind_of(model.kind).example(data) if inputs is None else inputs
    round_weights(network)
    golden = golden_tensors(network, inputs)
    half = _stored_as_half(network)
    weights = {  # clones: safetensors refuses tensors that share memory, as tied ones do
        key: (value.half() if half and value.is_floating_point() else value).cpu().contiguous().clone()
        for key, value in network.state_dict().items()
    }
    write_folder(folder, config, metrics, weights, golden, model_card(config, metrics))
    return folder


def golden_tensors(network: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``golden.safetensors`` holds: inputs, and the network's output for them."""
    golden = {name: value.cpu().contiguous() for name, value in inputs.items()}
    return golden | {OUTPUT: _output(network, inputs)}


def _output(network: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    device = next(network.parameters()).device
    training = network.training
    with torch.no_grad():
        output = network.eval()(**{name: value.to(device) for name, value in inputs.items()})
    network.train(training)
    return output.float().cpu().contiguous()


def round_weights(network: nn.Module) -> None:
    """Round the weights, in place, to the precision in which `export` stores them: test what is shipped."""
    if _stored_as_half(network):
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half())


def _stored_as_half(network: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in network.parameters()) > HALF_ABOVE


def find_checkpoint(name: str | os.PathLike[str]) -> Path:
    """The folder of a shipped checkpoint, or of one that a path or an address of the Hub names."""
    if name in shipped():
        return shipped_folder(str(name))
    if str(name).startswith(SCHEME):
        return hub_folder(str(name))
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"{name} is a file; give the checkpoint folder (a run writes one to export/).")
    offered = ", ".join(shipped()) or "none yet"
    if name in names("models"):
        raise CheckpointError(
            f"{name} has no trained weights here: train them with `python train.py model={name}`, then load "
            f"the run's export/ folder. Shipped are: {offered}."
        )
    close = get_close_matches(str(name), names("models"), n=2)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise CheckpointError(f"there is no model or folder {str(name)!r}.{hint} Shipped are: {offered}.")
