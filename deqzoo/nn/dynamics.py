"""Dynamics of neural ODEs: modules f(t, y) of y's shape. t is a 0-dim tensor, or (B,) where each sample has its own."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "softplus": nn.Softplus, "tanh": nn.Tanh}


class MLPDynamics(nn.Module):
    """Two hidden layers: y -> hidden -> hidden -> dy/dt.

    Args:
        features: of y, (B, features).
        hidden: width.
        activation: relu, tanh, softplus or elu.
        time: whether t is a further input.

    >>> MLPDynamics(2, 16)(torch.tensor(0.5), torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, features: int, hidden: int = 32, activation: str = "relu", time: bool = False) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation} is unknown; valid are {', '.join(sorted(ACTIVATIONS))}")
        self.time = time
        self.layers = nn.Sequential(
            nn.Linear(features + time, hidden),
            ACTIVATIONS[activation](),
            nn.Linear(hidden, hidden),
            ACTIVATIONS[activation](),
            nn.Linear(hidden, features),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, (B, features)."""
        if self.time:
            y = torch.cat([y, t.reshape(-1, 1).expand(len(y), 1).to(y)], 1)
        return self.layers(y)


class MLPVectorField(nn.Module):
    """Field of a neural CDE: z -> width -> ... -> width -> a matrix, with relu between and tanh at the end.

    Args:
        hidden: of z, (B, hidden).
        channels: of the path, time among them.
        width: of the layers between.
        depth: number of these.

    Source: Kidger, Morrill, Foster, Lyons, "Neural Controlled Differential Equations for Irregular Time Series", 2020.

    >>> MLPVectorField(8, 3, width=16)(torch.tensor(0.5), torch.zeros(5, 8)).shape
    torch.Size([5, 8, 3])
    """

    def __init__(self, hidden: int, channels: int, width: int = 64, depth: int = 1) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.layers = mlp(hidden, *[width] * depth, hidden * channels, activation=nn.ReLU)
        self.shape = hidden, channels

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """The matrix, (B, hidden, channels), with entries in (-1, 1)."""
        return torch.tanh(self.layers(z)).unflatten(-1, self.shape)


class TimeConv(nn.Module):
    """3x3 convolution of y with t as a further, constant channel (ConcatConv of Chen et al.).

    The channel of time is convolved by itself, as t conv(1): nothing is copied, and the number of channels stays even.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Parameter(torch.empty(out_channels, 1, 3, 3).uniform_(-1, 1) / (9 * in_channels) ** 0.5)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        of_one = F.conv2d(y.new_ones(1, 1, *y.shape[2:]), self.time, padding=1)
        return self.conv(y) + t.reshape(-1, 1, 1, 1).to(y) * of_one


class ConvDynamics(nn.Module):
    """Dynamics of ODE-Net: norm, (relu, convolution with time, norm) twice.

    Args:
        channels: of y, (B, channels, H, W).
        groups: of the group norms.

    Source: Chen et al., "Neural Ordinary Differential Equations", 2018, and its MNIST example.

    >>> ConvDynamics(32)(torch.tensor(0.5), torch.zeros(2, 32, 6, 6)).shape
    torch.Size([2, 32, 6, 6])
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(groups, channels) for _ in range(3))
        self.conv1, self.conv2 = TimeConv(channels, channels), TimeConv(channels, channels)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, of y's shape."""
        y = self.conv1(t, torch.relu(self.norm1(y)))
        y = self.conv2(t, torch.relu(self.norm2(y)))
        return self.norm3(y)


class BottleneckDynamics(nn.Module):
    """Dynamics of the ANODE paper's image models: 1x1, 3x3, 1x1 convolutions with relu between, without time.

    Args:
        channels: of y, (B, channels, H, W).
        hidden: channels between.

    Source: Dupont, Doucet, Teh, "Augmented Neural ODEs", 2019.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
        )

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, of y's shape."""
        return self.layers(y)


def mlp(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Linear layers of these sizes, with an activation between them.

    >>> mlp(2, 8, 1)(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])
