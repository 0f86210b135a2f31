"""Optimisers and learning-rate schedules of the recipes, one step of the schedule a training step."""

import math
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine", "one_cycle")


def make_optimizer(
    module: nn.Module, name: str, *, lr: float, weight_decay: float = 0.0, momentum: float = 0.9
) -> Optimizer:
    """AdamW, or SGD with Nesterov's momentum. Weight decay spares tensors of one dimension."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return AdamW(groups, lr=lr)
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    raise ValueError(f"optimizer {name!r} is unknown; valid are {', '.join(OPTIMIZERS)}.")


def make_schedule(optimizer: Optimizer, name: str, *, total_steps: int, warmup: float = 0.0) -> LambdaLR:
    """The schedule ``name`` over ``total_steps`` steps, of which the fraction ``warmup`` rises linearly."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is unknown; valid are {', '.join(SCHEDULES)}.")
    return LambdaLR(optimizer, partial(lr_scale, name=name, total_steps=total_steps, warmup=warmup))


def lr_scale(step: int, *, name: str, total_steps: int, warmup: float) -> float:
    r"""Learning rate at ``step`` over its maximum.

    It rises linearly during the warm-up, then stays (``constant``) or falls as half a cosine to zero
    (``cosine``). ``one_cycle`` rises as half a cosine from 1/25 instead (Smith & Topin, arXiv:1708.07120).

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
    return (1 + math.cos(math.pi * done)) / 2
