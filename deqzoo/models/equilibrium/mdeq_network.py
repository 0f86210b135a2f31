"""Image classifier whose body is a multiscale equilibrium."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.models.common.image_classifier import ImageClassifier
from deqzoo.nn.deq import DEQ
from deqzoo.nn.mdeq import MDEQCell, State


class MDEQClassifier(ImageClassifier):
    """Stem at full resolution, one multiscale equilibrium, and a head that gathers its resolutions.

    The head brings each resolution through a `Bottleneck`, then goes from the highest to the lowest: a strided
    convolution, plus the next resolution's. A last 1x1 convolution, average pooling and a linear layer follow. Stem
    and head have batch normalisation, the equilibrium has group normalisation: its samples do not meet.

    Args:
        in_channels: channels of the images.
        classes: names of the classes.
        mean, std: per-channel statistics; the normalisation is part of the network.
        widths: channels of the resolutions, the highest first.
        head_widths: inner channels of the head's bottlenecks, one per resolution; four times that leave them.
        final_width: channels before the pooling.
        solver, adjoint: of the equilibrium, see `DEQ`.
        cell_options: blocks, expansion, groups and others, see `MDEQCell`.

    Images are float in [0, 1], (B, in_channels, H, W); the result is logits, (B, len(classes)).

    Source: Bai, Koltun, Kolter, "Multiscale Deep Equilibrium Models", 2020.

    >>> import torch
    >>> about = {"in_channels": 1, "classes": ["a", "b"], "mean": [0.5], "std": [0.5]}
    >>> model = MDEQClassifier(**about, widths=[8, 8], head_widths=[2, 4], final_width=16)
    >>> model(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        *,
        in_channels: int,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        widths: Sequence[int] = (24, 24),
        head_widths: Sequence[int] = (8, 16),
        final_width: int = 200,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
        **cell_options: Any,
    ) -> None:
        if not len(mean) == len(std) == in_channels:
            raise ValueError(f"mean and std need one value for each of the {in_channels} channels")
        if len(head_widths) != len(widths):
            raise ValueError(f"head_widths needs a value for each of the {len(widths)} widths, got {len(head_widths)}")
        cell = MDEQCell(widths, **cell_options)
        super().__init__(
            classes=classes,
            mean=mean,
            std=std,
            stem=_stem(in_channels, widths[0], injection=len(widths) > 2),
            body=DEQ(cell, solver=solver, adjoint=adjoint),
            head=MDEQHead(widths, head_widths, final_width, len(classes)),
        )
        for module in (*self.stem.modules(), *self.head.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)

    def readout(self, z: State) -> Tensor:
        """Logits of a state of the equilibrium."""
        return self.head(z)


class MDEQHead(nn.Module):
    """From the resolutions (B, width_i, H_i, W_i) of an equilibrium to logits (B, classes), see `MDEQClassifier`."""

    def __init__(self, widths: Sequence[int], head_widths: Sequence[int], final_width: int, classes: int) -> None:
        super().__init__()
        out = [Bottleneck.EXPANSION * inner for inner in head_widths]
        self.bottlenecks = nn.ModuleList(map(Bottleneck, widths, head_widths))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in pairwise(out)
        )
        self.final = nn.Sequential(
            nn.Conv2d(out[-1], final_width, 1), nn.BatchNorm2d(final_width), nn.ReLU(inplace=True)
        )
        self.linear = nn.Linear(final_width, classes)

    def forward(self, state: State) -> Tensor:
        """Logits, (B, classes)."""
        first, *others = (block(z) for block, z in zip(self.bottlenecks, state, strict=True))
        for down, other in zip(self.down, others, strict=True):
            first = down(first) + other
        return self.linear(self.final(first).mean(dim=(2, 3)))


class Bottleneck(nn.Module):
    """relu(shortcut(x) + conv1x1(conv3x3(conv1x1(x)))), with batch normalisation: width -> 4 inner channels."""

    EXPANSION = 4

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        out = self.EXPANSION * inner
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False),
            nn.BatchNorm2d(inner, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out, affine=False),
        )
        self.shortcut = (
            nn.Identity() if width == out else nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, 4 inner, H, W)."""
        return (self.body(x) + self.shortcut(x)).relu_()


def _stem(in_channels: int, width: int, injection: bool) -> nn.Sequential:
    """Two 3x3 convolutions; with many resolutions a 1x1 convolution besides, which makes the injection of them."""
    sizes = [(in_channels, 3), (width, 3), *([(width, 1)] if injection else [])]
    layers: list[nn.Module] = []
    for before, size in sizes:
        conv = nn.Conv2d(before, width, size, padding=size // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
