"""Networks that take an image and its mirror image for the same: features in pairs, one kernel for both of a pair.

Channels 2c and 2c + 1 are one feature of an image and of its mirror image. Mirroring the image therefore flips the
width of all features and exchanges the two of each pair,

    mirror(z)[2c] = flip(z[2c + 1]),  mirror(z)[2c + 1] = flip(z[2c])

and each layer f here commutes with that, f(mirror(z)) = mirror(f(z)). What holds of each layer holds of a fixed point,
so it holds of equilibria, too. A convolution has half the parameters of an ordinary one of as many channels.

Source: Cohen, Welling, "Group Equivariant Convolutional Networks", 2016, for the group of two elements.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


def mirror(z: Tensor) -> Tensor:
    """The features of the mirror image, (batch, channels, height, width) -> the same.

    >>> mirror(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])).flatten().tolist()
    [4.0, 3.0, 2.0, 1.0]
    """
    return _exchanged(z.flip(-1))


def tie_mirror_images(layers: nn.Module) -> None:
    """Make `layers`, whose first convolution takes images, commute with `mirror`; in place, before any training.

    Convolutions and group norms keep the half of their weights; batch norms become a `PairedBatchNorm2d`. A convolution
    that divides the resolution must see disjoint parts of the image (as many pixels as its stride).

    Raises:
        ValueError: a layer whose channels are odd, or a strided convolution whose windows overlap.
    """
    first = True
    for parent in list(layers.modules()):
        if isinstance(parent, nn.Conv2d):
            _check_conv(parent)
            parametrize.register_parametrization(parent, "weight", _MirroredKernel(paired=not first))
            first = False
        elif isinstance(parent, nn.GroupNorm):
            for name in ("weight", "bias"):
                parametrize.register_parametrization(parent, name, _Twice())
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, PairedBatchNorm2d(child.num_features))


class PairedBatchNorm2d(nn.Module):
    """Batch normalisation with one mean, variance, weight and bias for both channels of a pair.

    >>> PairedBatchNorm2d(4)(torch.randn(3, 4, 8, 8)).shape
    torch.Size([3, 4, 8, 8])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(channels // 2)

    def forward(self, z: Tensor) -> Tensor:
        """Normalised features."""
        return self.norm(_pairs(z)).flatten(1, 2)


class PairMean(nn.Module):
    """Mean of the two channels of each pair: of pooled features, (batch, channels) -> (batch, channels / 2).

    >>> PairMean()(torch.tensor([[1.0, 3.0, 5.0, 5.0]])).tolist()
    [[2.0, 5.0]]
    """

    def forward(self, pooled: Tensor) -> Tensor:
        """What is the same for an image and its mirror image."""
        return _pairs(pooled).mean(dim=2)


class _MirroredKernel(nn.Module):
    """The kernels that look at the image (stored), and beside each the same one that looks at its mirror image."""

    def __init__(self, paired: bool) -> None:
        super().__init__()
        self.paired = paired  # do its inputs come in pairs? Those of the layer that takes the image do not.

    def forward(self, kernel: Tensor) -> Tensor:
        mirrored = kernel.flip(-1)
        if self.paired:
            mirrored = _exchanged(mirrored)
        return torch.stack([kernel, mirrored], dim=1).flatten(0, 1)

    def right_inverse(self, kernels: Tensor) -> Tensor:
        return kernels[::2].clone()


class _Twice(nn.Module):
    """One weight for both channels of a pair."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.repeat_interleave(2)

    def right_inverse(self, weights: Tensor) -> Tensor:
        return weights[::2].clone()


def _pairs(z: Tensor) -> Tensor:
    """(batch, channels, ...) -> (batch, channels / 2, 2, ...)."""
    return z.unflatten(1, (-1, 2))


def _exchanged(z: Tensor) -> Tensor:
    """The two channels of each pair exchanged."""
    return _pairs(z).flip(2).flatten(1, 2)


def _check_conv(conv: nn.Conv2d) -> None:
    """A convolution whose mirror images can be tied."""
    if parametrize.is_parametrized(conv):
        raise ValueError("mirror=True and weight_norm=True: choose one, each has a kernel of its own kind")
    if conv.out_channels % 2:
        raise ValueError(f"mirror=True needs even widths, got {conv.out_channels}")
    if conv.stride != (1, 1) and conv.stride != conv.kernel_size:
        raise ValueError(
            f"mirror=True needs strided convolutions that see disjoint parts (entry_kernel=2); "
            f"got a kernel of {conv.kernel_size[0]} and a stride of {conv.stride[0]}"
        )
