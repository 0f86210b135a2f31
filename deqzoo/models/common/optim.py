"""Optimisers and learning-rate schedules of the recipes, one step of the schedule per training step."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from deqzoo.errors import ConfigError
from deqzoo.implicit.private_api import fused_devices, scales_no_gradients
from deqzoo.models.common.config import ParameterGroup
from deqzoo.models.common.muon import Muon

OPTIMIZERS = ("adamw", "sgd", "muon")
OTHERWISE = "fused", "foreach", "capturable", "differentiable", "dampening"  # options that rule out, or say, fused
SCHEDULES = ("constant", "cosine", "linear", "one_cycle")


def make_optimizer(
    module: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    groups: Sequence[ParameterGroup] = (),
    fused: bool = False,
    **options: Any,
) -> Optimizer:
    """AdamW, SGD with Nesterov's momentum, or `Muon`. Weight decay spares tensors of one dimension.

    Args:
        groups: parameters with a learning rate of their own; a parameter belongs to the first whose pattern fits its
            name. With "muon" they are stepped by SGD or, if adaptive, by Adam, and what is left must be kernels.
        fused: all of a step of AdamW or SGD in one kernel, where PyTorch has it for the parameters and the options;
            not for a loss that is scaled.
        options: further ones of the optimiser.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is unknown; valid are {', '.join(OPTIMIZERS)}.")
    chosen, rest = _divided(module, groups)
    parts: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    parts += [{"params": params, "lr": group.lr, "weight_decay": group.weight_decay} for group, params in chosen]
    if name == "adamw":
        return _made(AdamW, parts, {"lr": lr}, options, fused)
    for part, (group, _) in zip(parts[2:], chosen, strict=True):
        part["momentum"] = group.momentum
    if name == "sgd":
        own = {"lr": lr, "momentum": momentum, "nesterov": momentum > 0}
        return _made(SGD, parts, own, options, fused)
    for part, (group, _) in zip(parts[2:], chosen, strict=True):
        part["orthogonal"], part["adaptive"] = False, group.adaptive
    stepped = {id(p) for p in parts[1]["params"]}
    if vectors := [name for name, p in module.named_parameters() if id(p) in stepped]:
        raise ConfigError(
            "model.optimizer=muon steps matrices and kernels; these parameters have one dimension and need a group, as "
            f"'model.parameter_groups=[{{match: \"*.bias\", lr: 0.01}}]': {', '.join(vectors)}."
        )
    return Muon([part for part in parts if part["params"]], lr=lr, momentum=momentum, **options)


def _made(
    optimizer: type[AdamW | SGD],
    parts: list[dict[str, Any]],
    own: dict[str, Any],
    options: dict[str, Any],
    fused: bool,
) -> Optimizer:
    """The optimiser with our own options and further ones; fused, if it is to be and can be."""
    parameters = [p for part in parts for p in part["params"]]
    can_be = all(p.device.type in fused_devices() and p.is_floating_point() for p in parameters)
    if not (fused and can_be) or not options.keys().isdisjoint(OTHERWISE):
        return optimizer(parts, **own, **options)
    made = optimizer(parts, fused=True, **own, **options)
    scales_no_gradients(made)
    made.register_load_state_dict_pre_hook(_keep_fused)
    for p in parameters if optimizer is SGD else ():
        # A first step that is skipped would leave it as the memory happened to be.
        made.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return made


def _keep_fused(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint, which may be from another device."""
    return state | {"param_groups": [part | {"fused": True} for part in state["param_groups"]]}


def skips_by_itself(optimizer: Optimizer) -> bool:
    """Whether its step does nothing where its `found_inf`, on the device, is 1."""
    return isinstance(optimizer, Muon) or all(part.get("fused") for part in optimizer.param_groups)


def _divided(
    module: nn.Module, groups: Sequence[ParameterGroup]
) -> tuple[list[tuple[ParameterGroup, list[nn.Parameter]]], list[nn.Parameter]]:
    """The parameters of each group, and the others."""
    chosen: list[tuple[ParameterGroup, list[nn.Parameter]]] = [(group, []) for group in groups]
    rest: list[nn.Parameter] = []
    unused = [group.match for group in groups]
    for name, parameter in module.named_parameters():
        match, fits = next(((g.match, params) for g, params in chosen if fnmatchcase(name, g.match)), (None, rest))
        unused = [other for other in unused if other != match]
        if parameter.requires_grad:
            fits.append(parameter)
    if unused:
        names = ", ".join(name for name, _ in module.named_parameters())
        raise ConfigError(f"model.parameter_groups: no parameter left fits {unused[0]!r}; there are {names}.")
    return chosen, rest


def freeze_others(module: nn.Module, patterns: Sequence[str]) -> None:
    """Leave as they are all parameters whose names fit none of the patterns (* and ?); without patterns none.

    >>> layer = nn.Linear(2, 3)
    >>> freeze_others(layer, ["b*"])
    >>> [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
    ['bias']
    """
    names = [name for name, _ in module.named_parameters()]
    if unused := [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]:
        raise ValueError(f"train_only: no parameter fits {unused[0]!r}; there are {', '.join(names)}")
    for name, parameter in module.named_parameters():
        if patterns and not any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)


def make_schedule(optimizer: Optimizer, name: str, *, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """The schedule ``name`` over ``total_steps`` steps, of which the fraction ``warmup`` rises linearly."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is unknown; valid are {', '.join(SCHEDULES)}.")
    return LambdaLR(optimizer, partial(lr_scale, name=name, total_steps=total_steps, warmup=warmup))


def lr_scale(step: int, *, name: str, total_steps: int, warmup: float) -> float:
    r"""Learning rate at ``step`` over its maximum.

    It rises linearly during the warm-up, then stays (``constant``), falls to zero as half a cosine (``cosine``) or
    evenly (``linear``). ``one_cycle`` rises as half a cosine from 1/25 instead (Smith & Topin, arXiv:1708.07120).

    >>> [round(lr_scale(s, name="cosine", total_steps=8, warmup=0.25), 2) for s in range(9)]
    [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07, 0.0]
    """
    rise = round(warmup * total_steps)
    if step < rise:
        if name == "one_cycle":
            return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / rise)) / 2
        return (step + 1) / rise
    if name == "constant":
        return 1.0
    done = min(1.0, (step - rise) / max(1, total_steps - rise))
    return 1 - done if name == "linear" else (1 + math.cos(math.pi * done)) / 2
