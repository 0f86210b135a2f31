"""Explicit image classifiers, with which equilibria are compared."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from deqzoo.models.common.image_classifier import ImageClassifier
from deqzoo.models.equilibrium.convolutions import conv3x3, normalised_conv
from deqzoo.nn.cells import PlainConvCell
from deqzoo.nn.flip_equivariant import PairMean, make_flip_equivariant


def conv_net(
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int,
    depth: int = 2,
    stride: int = 1,
    grid: int = 4,
) -> ImageClassifier:
    """A plain convolutional network: ReLU layers of `width` channels, average pooling, a linear layer.

    With two layers it is the explicit baseline of `mondeq_conv` with one width: A and B as layers, one after the other.

    Args:
        depth: 3x3 convolutions after the one that takes the image, without bias.
        stride: of the convolution that takes the image.
        grid: the head sees grid x grid averages of each channel.

    >>> import torch
    >>> conv_net(["a", "b"], [0.5], [0.5], width=4)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    stem = nn.Sequential(conv3x3(len(mean), width, stride), nn.ReLU())
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [conv3x3(width, width, bias=False), nn.ReLU()]
    return ImageClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=stem,
        body=nn.Sequential(*layers),
        head=pooled_linear(width, grid, len(classes)),
    )


def residual_net(
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    widths: Sequence[int],
    depth: int = 1,
    stem: int = 32,
    groups: int = 8,
    dropout: float = 0.0,
    flip_equivariant: bool = False,
) -> ImageClassifier:
    """A residual network: in each stage a strided 2x2 convolution and `depth` layers z -> relu(z + norm(conv(z))).

    With depth 1 it is the explicit baseline of a `DEQClassifier` of plain cells: the same layers, each of them once.

    Args:
        widths: channels of the stages, each of which halves the resolution.
        stem: channels of the 3x3 convolution at full resolution before them.
        groups: of the layers' group norms; must divide each of the widths.
        dropout: probability that a channel of a layer's input is dropped.
        flip_equivariant: as in `DEQClassifier`.

    >>> import torch
    >>> residual_net(["a", "b"], [0.5], [0.5], widths=[8])(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    if not widths or depth < 1:
        raise ValueError(f"widths={list(widths)} and depth={depth}: at least one stage of one layer is needed")
    before = stem
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Sequential(normalised_conv(before, width, 2, 2), nn.ReLU()))
        layers += [ResidualLayer(width, groups, dropout) for _ in range(depth)]
        before = width
    pooling = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if flip_equivariant:
        pooling.append(PairMean())
        before //= 2
    network = ImageClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(normalised_conv(len(mean), stem, 3, 1), nn.ReLU()),
        body=nn.Sequential(*layers),
        head=nn.Sequential(*pooling, nn.BatchNorm1d(before), nn.Linear(before, len(classes))),
    )
    if flip_equivariant:
        make_flip_equivariant(network)
    return network


class ResidualLayer(nn.Module):
    """A `PlainConvCell` f as a layer: z -> f(z, z)."""

    def __init__(self, channels: int, groups: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.cell = PlainConvCell(channels, groups, dropout)

    def forward(self, z: Tensor) -> Tensor:
        """f(z, z)."""
        return self.cell(z, z)


def pooled_linear(width: int, grid: int, classes: int) -> nn.Sequential:
    """Averages of grid x grid parts of the image, and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(), nn.Linear(width * grid**2, classes))
