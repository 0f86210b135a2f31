"""Batch normalisation by the statistics of a task's support set, so that each query is answered by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d


def batch_norms(network: nn.Module) -> list[Any]:
    """Those of a network that take the statistics of the batch that they see."""
    found: list[Any] = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    return [module for module in found if not module.track_running_stats]


@contextlib.contextmanager
def normalised_by_first(network: nn.Module, count: int) -> Iterator[None]:
    """Inside, batch norms normalise all samples by mean and variance of the first `count` ones.

    >>> norm = nn.BatchNorm1d(1, track_running_stats=False)
    >>> with normalised_by_first(norm, 2):
    ...     norm(torch.tensor([[1.0], [3.0], [9.0]])).flatten()
    tensor([-1.0000,  1.0000,  7.0000], grad_fn=...)
    """

    def normalise(module: Any, given: tuple[Tensor], output: Tensor) -> Tensor:
        (x,) = given  # F.batch_norm has no derivative in given statistics
        mean, variance = (per_channel(found, x) for found in _statistics(x[:count]))
        x = (x - mean) * (variance + module.eps).rsqrt()
        return x * per_channel(module.weight, x) + per_channel(module.bias, x) if module.affine else x

    def per_channel(values: Tensor, x: Tensor) -> Tensor:
        return values.view(1, -1, *[1] * (x.dim() - 2))

    hooks = [module.register_forward_hook(normalise) for module in batch_norms(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def keep_statistics(network: nn.Module, support: Tensor) -> None:
    """Let the batch norms of a network normalise by the statistics of `support` in eval mode, to which it is set."""

    def keep(module: Any, given: tuple[Tensor], output: Tensor) -> None:
        module.running_mean, module.running_var = _statistics(given[0])

    network.eval()
    if not (norms := batch_norms(network)):
        return
    hooks = [module.register_forward_hook(keep) for module in norms]
    network(support)
    for hook, module in zip(hooks, norms, strict=True):
        hook.remove()
        module.track_running_stats, module.momentum = True, 0.0  # no later batch changes them


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    others = [axis for axis in range(x.dim()) if axis != 1]
    return x.mean(dim=others), x.var(dim=others, correction=0)
