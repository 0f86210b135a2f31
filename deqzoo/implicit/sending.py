"""Small tensors on their way between the host and a device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .modes import in_transform


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; from the host by pinned memory, as a copy from elsewhere waits until the device is idle.

    >>> send(torch.arange(3), torch.device("cpu"))
    tensor([0, 1, 2])
    """
    if tensor.device.type != "cpu" or device.type in ("cpu", "mps", "meta") or in_transform():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Fetched:
    """A tensor on its way to the host, which goes on meanwhile, and waits for it only if it reads too early.

    >>> Fetched(torch.arange(3)).read()
    tensor([0, 1, 2])
    """

    def __init__(self, tensor: Tensor) -> None:
        away = tensor.device.type not in ("cpu", "mps", "meta")
        self._value = tensor.detach().to("cpu", non_blocking=away)  # into pinned memory
        self._event: Any = None
        if away:
            self._event = torch.get_device_module(tensor.device).Event()
            self._event.record()

    @property
    def is_there(self) -> bool:
        """Whether the host can read it without waiting."""
        return self._event is None or bool(self._event.query())

    def read(self) -> Tensor:
        """The tensor, on the host."""
        if not self.is_there:
            self._event.synchronize()
        return self._value
