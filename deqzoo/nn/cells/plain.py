"""The plain cell: one convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class PlainConvCell(nn.Module):
    """One convolution with input injection, its norm bounded by normalisation.

        f(z, x) = relu(x + norm(conv(z)))

    with a 3x3 convolution without bias and group normalisation. It costs half a `ConvCell`. The normalised branch has
    at most the size of the normalisation's weight, whatever the kernel's size; that weight starts at 1/2, so that f
    contracts at first.

    Args:
        channels: channels of z and x, (batch, channels, height, width).
        groups: groups of the normalisation; must divide `channels`.
        dropout, weight_norm: as in `ConvCell`; what is dropped are channels of z.

    >>> PlainConvCell(16)(torch.zeros(2, 16, 8, 8), torch.ones(2, 16, 8, 8)).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int, groups: int = 8, dropout: float = 0.0, weight_norm: bool = False) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"groups={groups} must divide the width {channels}")
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(groups, channels)
        self.dropout = nn.Dropout2d(dropout)
        nn.init.constant_(self.norm.weight, 0.5)
        if weight_norm:
            parametrizations.weight_norm(self.conv)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """f(z, x), of z's shape."""
        return torch.relu(x + self.norm(self.conv(self.dropout(z))))
