"""Image classifiers of a monotone operator equilibrium network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from deqzoo.models.common.image_classifier import ImageClassifier
from deqzoo.models.equilibrium.convolutions import conv3x3
from deqzoo.models.equilibrium.explicit_network import pooled_linear
from deqzoo.nn.mondeq import MonDEQ
from deqzoo.nn.monotone import MonotoneLinear
from deqzoo.nn.monotone_conv import MonotoneConv2d


def mondeq_fc(
    in_features: int,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    features: int,
    margin: float = 1.0,
    **solving: Any,
) -> ImageClassifier:
    """The fully connected monDEQ: z* = relu(W z* + U x + b) of `features` units, for images of `in_features` pixels.

    >>> import torch
    >>> mondeq_fc(64, ["a", "b"], [0.5], [0.5], features=20)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    return ImageClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(nn.Flatten(), nn.Linear(in_features, features)),
        body=MonDEQ(MonotoneLinear(features, margin), **solving),
        head=nn.Linear(features, len(classes)),
    )


def mondeq_conv(
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    widths: Sequence[int],
    margin: float = 1.0,
    stride: int = 1,
    grid: int = 4,
    **solving: Any,
) -> ImageClassifier:
    """The convolutional monDEQ, of a single convolution or several tiers (see `MonotoneConv2d`).

    Args:
        widths: channels of the tiers.
        stride: of the 3x3 convolution that injects the image.
        grid: the last tier is averaged to grid x grid positions for the head.
        solving: solver and adjoint, see `MonDEQ`.

    >>> import torch
    >>> mondeq_conv(["a", "b"], [0.5], [0.5], widths=[4, 8], grid=2)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    cell = MonotoneConv2d(widths, margin)
    return ImageClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(conv3x3(len(mean), widths[0], stride), nn.ZeroPad2d(cell.borders[0])),
        body=MonDEQ(cell, **solving),
        head=nn.Sequential(_LastTier(cell), pooled_linear(widths[-1], grid, len(classes))),
    )


class _LastTier(nn.Module):
    """The last tier of a state, without its border."""

    def __init__(self, cell: MonotoneConv2d) -> None:
        super().__init__()
        self.border = cell.borders[-1]

    def forward(self, z: tuple[Tensor, ...]) -> Tensor:
        border = self.border
        return nn.functional.pad(z[-1], 4 * [-border])
