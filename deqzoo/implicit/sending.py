"""Small tensors on their way from the host to a device."""

from __future__ import annotations

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
