"""Flip-equivariant networks: features in pairs, one kernel for both of a pair, so that flips of an image commute.

Channels 2c and 2c + 1 are one feature of an image and of its mirror image. Mirroring the image therefore flips the
width of all features and exchanges the two of each pair,

    flipped(z)[2c] = flip(z[2c + 1]),  flipped(z)[2c + 1] = flip(z[2c])

and each layer f here commutes with that, f(flipped(z)) = flipped(f(z)). What holds of each layer holds of a fixed
point, so it holds of equilibria, too. A convolution has half the parameters of an ordinary one with the same channels.

Source: Cohen, Welling, "Group Equivariant Convolutional Networks", 2016, for the group of two elements.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .contractive import ContractiveConvCell
from .whitening import Whitening


def flipped(z: Tensor) -> Tensor:
    """The features of the mirror image, (batch, channels, height, width) -> the same.

    >>> flipped(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])).flatten().tolist()
    [4.0, 3.0, 2.0, 1.0]
    """
    return _exchanged(z.flip(-1))


def make_flip_equivariant(layers: nn.Module) -> None:
    """Make `layers`, whose first convolution takes images, commute with `flipped`; in place, before any training.

    Convolutions, contractive cells and group norms keep the half of their weights; each batch norm inside becomes a
    `PairedBatchNorm2d`. A convolution that divides the width must see disjoint parts of it, which a forward pass
    checks. Before the first convolution there may be a symmetric `Whitening`.

    Raises:
        ValueError: odd channels; a group of a norm that ends within a pair; a convolution with a bias, with groups,
            with weight normalisation, or with a stride and overlapping windows; a whitening that is not symmetric.
            Later: a width that a stride does not divide.
    """
    partners: Tensor | None = None  # of the first convolution's inputs
    first = True
    for layer in list(layers.modules()):
        if isinstance(layer, Whitening):
            partners = layer.partners()
        elif isinstance(layer, nn.Conv2d):
            _check_conv(layer)
            kernel = _PairedKernel(partners if first else _in_pairs(layer.in_channels))
            parametrize.register_parametrization(layer, "weight", kernel)
            layer.register_forward_pre_hook(_check_width)
            first = False
        elif isinstance(layer, ContractiveConvCell):
            channels = layer.state[0]
            _check_even(channels)
            parametrize.register_parametrization(layer, "kernel", _PairedKernel(_in_pairs(channels)))
            parametrize.register_parametrization(layer, "gain", _RepeatPairs())
        elif isinstance(layer, nn.GroupNorm):
            if layer.num_groups != layer.num_channels and layer.num_channels // layer.num_groups % 2:
                raise ValueError(
                    "flip_equivariant=True needs groups of 1 or of an even number of channels, got "
                    f"groups={layer.num_groups} of {layer.num_channels}"
                )
            for name, _ in list(layer.named_parameters(recurse=False)):
                parametrize.register_parametrization(layer, name, _RepeatPairs())
        for name, child in layer.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(layer, name, PairedBatchNorm2d(child.num_features, child.eps, child.momentum, child.affine))


class PairedBatchNorm2d(nn.Module):
    """Batch normalisation with one mean, variance, weight and bias for both channels of a pair.

    Args:
        channels: an even number.
        eps, momentum: as of `torch.nn.BatchNorm2d`.
        scale: with a weight.

    >>> PairedBatchNorm2d(4)(torch.randn(3, 4, 8, 8)).shape
    torch.Size([3, 4, 8, 8])
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float | None = 0.1, scale: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(channels // 2, eps, momentum, affine=scale)
        self.bias = None if scale else nn.Parameter(torch.zeros(channels // 2))

    def forward(self, z: Tensor) -> Tensor:
        """Normalised features."""
        pairs = self.norm(_pairs(z))
        if self.bias is not None:
            pairs = pairs + self.bias.view(-1, 1, 1, 1)
        return _match_memory_format(z, pairs.flatten(1, 2))


class PairMean(nn.Module):
    """Mean of the two channels of each pair: of pooled features, (batch, channels) -> (batch, channels / 2).

    >>> PairMean()(torch.tensor([[1.0, 3.0, 5.0, 5.0]])).tolist()
    [[2.0, 5.0]]
    """

    def forward(self, pooled: Tensor) -> Tensor:
        """What is the same for an image and its mirror image."""
        return _pairs(pooled).mean(dim=2)


class _PairedKernel(nn.Module):
    """The kernels that look at the image (stored), and beside each the same one that looks at its mirror image.

    Args:
        partners: of each input channel, the one that has its place in the mirror image; None: itself.
    """

    partners: Tensor | None

    def __init__(self, partners: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("partners", partners, persistent=False)

    def forward(self, kernel: Tensor) -> Tensor:
        mirrored = kernel.flip(-1)
        if self.partners is not None:
            mirrored = mirrored[:, self.partners]
        return _match_memory_format(kernel, torch.stack([kernel, mirrored], dim=1).flatten(0, 1))

    def right_inverse(self, kernels: Tensor) -> Tensor:
        return kernels[::2].clone()


class _RepeatPairs(nn.Module):
    """One weight for both channels of a pair."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.repeat_interleave(2, dim=0)

    def right_inverse(self, weights: Tensor) -> Tensor:
        return weights[::2].clone()


def _in_pairs(channels: int) -> Tensor:
    """The partner of each channel: its neighbour, 1, 0, 3, 2, ..."""
    return torch.arange(channels) ^ 1


def _pairs(z: Tensor) -> Tensor:
    """(batch, channels, ...) -> (batch, channels / 2, 2, ...)."""
    return z.unflatten(1, (-1, 2))


def _exchanged(z: Tensor) -> Tensor:
    """The two channels of each pair exchanged."""
    return _pairs(z).flip(2).flatten(1, 2)


def _match_memory_format(model: Tensor, z: Tensor) -> Tensor:
    """z, channels-last where `model` is, so that what follows stays in that layout."""
    if model.is_contiguous() or not model.is_contiguous(memory_format=torch.channels_last):
        return z
    return z.contiguous(memory_format=torch.channels_last)


def _check_conv(conv: nn.Conv2d) -> None:
    """A convolution whose mirror images can be tied."""
    if parametrize.is_parametrized(conv):
        raise ValueError("flip_equivariant=True and weight_norm=True: choose one, each has a kernel of its own kind")
    if conv.bias is not None or conv.groups > 1:
        raise ValueError("flip_equivariant=True takes convolutions without bias and without groups")
    _check_even(conv.out_channels)
    if conv.stride != (1, 1) and conv.stride != conv.kernel_size:
        raise ValueError(
            f"flip_equivariant=True needs strided convolutions that see disjoint parts (entry_kernel=2); "
            f"got a kernel of {conv.kernel_size[0]} and a stride of {conv.stride[0]}"
        )


def _check_even(channels: int) -> None:
    if channels % 2:
        raise ValueError(f"flip_equivariant=True needs even widths, got {channels}")


def _check_width(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A forward pre-hook: what a stride leaves over at the right stands at the left of the mirror image."""
    width, stride = inputs[0].shape[-1], conv.stride[1]  # type: ignore[index]
    if width % stride:
        raise ValueError(
            f"flip_equivariant=True needs images whose width the strides divide; "
            f"a convolution of stride {stride} got {width} pixels"
        )
