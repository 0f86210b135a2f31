"""The moving average of a network's weights."""

import copy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit.private_api import lerp_in_place


class MovingAverage(nn.Module):
    """average <- decay average + (1 - decay) network, of parameters and buffers; at the first update they are copied.

    As `torch.optim.swa_utils.AveragedModel`, whose state it reads and writes. But that one counts its updates on the
    device, and to read the count the host waits for the device, twice a step.

    Args:
        network: is copied.
        decay: in [0, 1).

    >>> network = nn.Linear(1, 1)
    >>> average = MovingAverage(network, decay=0.5)
    >>> for value in (2.0, 4.0):
    ...     _ = nn.init.constant_(network.bias, value)
    ...     average.update(network)
    >>> average.module.bias.item()
    3.0
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.updates = decay, 0
        self.register_state_dict_post_hook(_save_count)
        self.register_load_state_dict_pre_hook(_load_count)

    @torch.no_grad()
    def update(self, network: nn.Module, skipped: Tensor | None = None) -> None:
        """To be called after each step; `skipped`, a truth value on the device: that step left the network alone."""
        own, new = (_tensors(module) for module in (self.module, network))
        pairs = list(zip(own, new, strict=True))
        if self.updates == 0:
            for average, value in pairs:
                average.copy_(value)
        else:
            averages, values = zip(*[pair for pair in pairs if _has_mean(pair[0])], strict=True)
            weight = 1 - self.decay
            lerp_in_place(averages, values, weight if skipped is None else torch.where(skipped, 0.0, weight))
            for average, value in [pair for pair in pairs if not _has_mean(pair[0])]:
                mean = average * self.decay + value * (1 - self.decay)
                average.copy_(mean if skipped is None else torch.where(skipped, average, mean))
        self.updates += 1


def _save_count(average: MovingAverage, state: dict[str, Any], prefix: str, _: Any) -> None:
    state[f"{prefix}n_averaged"] = torch.tensor(average.updates)


def _load_count(average: MovingAverage, state: dict[str, Any], prefix: str, *_: Any) -> None:
    average.updates = int(state.pop(f"{prefix}n_averaged", 0))


def _tensors(network: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in chain(network.parameters(), network.buffers())]


def _has_mean(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
