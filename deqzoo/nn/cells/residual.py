"""The residual cell: two convolutions with a shortcut."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class ConvCell(nn.Module):
    """Residual convolutional cell with input injection, bounded by its last normalisation.

        f(z, x) = norm(relu(z + norm(x + conv(dropout(norm(relu(conv(z))))))))

    with two 3x3 convolutions without bias, channels -> round(expansion channels) -> channels, and group normalisation.
    The weights start at N(0, 0.01), so that f contracts at first.

    Args:
        channels: channels of z and x, (batch, channels, height, width).
        expansion: width of the hidden layer over `channels`.
        groups: groups of the normalisations; must divide both widths.
        dropout: probability that a hidden channel is dropped; one mask for all steps of a solve (see `DEQ`), which is
            called variational dropout.
        weight_norm: learn length and direction of each output channel's kernel apart, w = g v / ||v||.

    Source: Kolter, Duvenaud, Johnson, "Deep Implicit Layers" (NeurIPS 2020 tutorial), chapter 4; Salimans, Kingma,
    "Weight Normalization", 2016; Gal, Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
    Networks", 2016.

    >>> ConvCell(16)(torch.zeros(2, 16, 8, 8), torch.ones(2, 16, 8, 8)).shape
    torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        expansion: float = 1.0,
        groups: int = 8,
        dropout: float = 0.0,
        weight_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = round(expansion * channels)
        if channels % groups or hidden % groups:
            raise ValueError(f"groups={groups} must divide the widths {channels} and {hidden}")
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, hidden)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)
        self.dropout = nn.Dropout2d(dropout)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=0.01)
            if weight_norm:
                parametrizations.weight_norm(conv)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """f(z, x), of z's shape."""
        y = self.dropout(self.norm1(torch.relu(self.conv1(z))))
        return self.norm3(torch.relu(z + self.norm2(x + self.conv2(y))))
