"""From typed settings to networks: a recipe's, or a checkpoint's. Only registered kinds are built."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from omegaconf import OmegaConf
from torch import nn

from deqzoo.config import ConfigError, DEQClassifierConfig
from deqzoo.implicit import LINEAR_SOLVERS, SOLVERS, make_gradient, make_solver
from deqzoo.nn import DEQClassifier


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """What a network must know of its images.

    Attributes:
        in_channels: channels of an image.
        classes: names of the labels.
        mean, std: of the training images, a channel, for pixels in [0, 1].
    """

    in_channels: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ImageInfo":
        """From the ``data`` of a ``config.json``; an unknown or missing key is a `ConfigError`."""
        valid = {item.name for item in dataclasses.fields(cls)}
        if set(values) != valid:
            wrong = ", ".join(sorted(set(values) ^ valid))
            raise ConfigError(f"data has unknown or missing keys: {wrong}; it has {', '.join(sorted(valid))}.")
        return cls(int(values["in_channels"]), tuple(values["classes"]), tuple(values["mean"]), tuple(values["std"]))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return dataclasses.asdict(self)


def build_network(model: Any, data: ImageInfo) -> nn.Module:
    """The network of a recipe's typed ``model`` settings, for images that are as ``data`` says.

    Both are kept in its ``recipe``, from which `deqzoo.export` writes them to the checkpoint. An unknown
    solver, gradient or option is a `ConfigError` that lists the valid ones.
    """
    settings = OmegaConf.to_object(model) if OmegaConf.is_config(model) else model
    network = _BUILDERS[type(settings)](settings, data)
    network.recipe = (settings, data)  # type: ignore[assignment]
    return network


def _deq_classifier(model: DEQClassifierConfig, data: ImageInfo) -> nn.Module:
    return DEQClassifier(
        in_channels=data.in_channels,
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        widths=model.widths,
        expansion=model.expansion,
        groups=model.groups,
        dropout=model.dropout,
        solver=_solver("model.solver", SOLVERS, model.solver, model.solver_options),
        gradient=_gradient(model.gradient, dict(model.gradient_options)),
    )


def _solver(setting: str, valid: Collection[str], name: str, options: Mapping[str, Any]) -> Any:
    if name not in valid:
        raise ConfigError(f"{setting}={name}: valid are {', '.join(sorted(valid))}.")
    try:
        return make_solver(name, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{setting}={name}: {error}.") from error


def _gradient(name: str, options: dict[str, Any]) -> Any:
    """``options`` are the gradient's own; a linear solver's are in its ``linear_solver_options``."""
    linear_options = options.pop("linear_solver_options", {})
    if linear_options or "linear_solver" in options:
        linear = options.get("linear_solver", "gmres")
        setting = "model.gradient_options.linear_solver"
        options["linear_solver"] = _solver(setting, LINEAR_SOLVERS, linear, linear_options)
    try:
        return make_gradient(name, **options)
    except (TypeError, ValueError) as error:
        hint = "Leave out what the recipe sets with ~model.gradient_options.NAME."
        raise ConfigError(f"model.gradient={name}: {error}. {hint}") from error


_BUILDERS: dict[type, Callable[[Any, ImageInfo], nn.Module]] = {DEQClassifierConfig: _deq_classifier}
