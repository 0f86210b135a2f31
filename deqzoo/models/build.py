"""From a recipe to a network."""

from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from deqzoo.data.info import DataInfo
from deqzoo.models.registry import kind_of


def build_network(model: Any, data: DataInfo) -> nn.Module:
    """The network of a recipe's typed ``model`` settings, for data that are as ``data`` says.

    Both are kept in its ``recipe``, from which `deqzoo.export` writes them to the checkpoint. An unknown
    solver, gradient or option is a `ConfigError` that lists the valid ones. Its kernels lie in memory as the setting
    ``channels_last`` says, if the kind has it: in training and after loading alike.
    """
    settings: Any = OmegaConf.to_object(model) if OmegaConf.is_config(model) else model
    network = kind_of(settings.kind).network(settings, data)
    for layer in network.modules():
        if hasattr(layer, "on_failure"):
            layer.on_failure = "ignore"  # type: ignore[assignment]  # the module that trains it logs how solves end
    if getattr(settings, "channels_last", False):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.recipe = (settings, data)  # type: ignore[assignment]
    return network
