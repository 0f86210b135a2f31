"""Convolutions of the image classifiers, outside of their cells."""

from __future__ import annotations

from torch import nn


def normalised_conv(before: int, after: int, kernel: int, stride: int, groups: int | None = None) -> nn.Sequential:
    """A convolution without bias that divides the resolution by its stride, and group normalisation (None: batch)."""
    padding = 1 if kernel == 3 else 0
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=padding, bias=False)
    return nn.Sequential(conv, nn.GroupNorm(groups, after) if groups else nn.BatchNorm2d(after))


def conv3x3(before: int, after: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the resolution, but for its stride."""
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=bias)
