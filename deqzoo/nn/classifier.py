"""Image classifiers whose body is a chain of equilibrium layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..implicit import FixedPointSolver, Gradient
from .cells import ConvCell
from .deq import DEQ


class DEQClassifier(nn.Module):
    """Stem, one equilibrium stage a width with stride-2 transitions between, average pooling, linear head.

    Args:
        in_channels: channels of the images.
        classes: names of the classes.
        mean, std: per-channel statistics; the normalisation is part of the network.
        widths: channels of the stages; each further stage halves the resolution.
        expansion, groups, dropout, weight_norm: of the cells, see `ConvCell`.
        solver, gradient: of the equilibrium layers, see `DEQ`.

    Images are float in [0, 1], (batch, in_channels, height, width); the result is logits, (batch, len(classes)).

    >>> model = DEQClassifier(in_channels=1, classes=["a", "b"], mean=[0.5], std=[0.5], widths=[16])
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
        widths: Sequence[int],
        expansion: float = 1.0,
        groups: int = 8,
        dropout: float = 0.0,
        weight_norm: bool = False,
        solver: FixedPointSolver | None = None,
        gradient: Gradient | None = None,
    ) -> None:
        super().__init__()
        if not len(mean) == len(std) == in_channels:
            raise ValueError(f"mean and std need one value for each of the {in_channels} channels")
        if not widths:
            raise ValueError("widths needs at least one stage")
        self.classes = tuple(classes)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        entries, stages = [], []
        for i, width in enumerate(widths):
            before, stride = (in_channels, 1) if i == 0 else (widths[i - 1], 2)
            conv = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
            entries.append(nn.Sequential(conv, nn.GroupNorm(groups, width)))
            cell = ConvCell(width, expansion, groups, dropout, weight_norm)
            stages.append(DEQ(cell, solver=solver, gradient=gradient))
        self.entries = nn.ModuleList(entries)
        self.stages = nn.ModuleList(stages)
        self.norm = nn.GroupNorm(groups, widths[-1])
        self.head = nn.Linear(widths[-1], len(self.classes))

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layers, in order."""
        return list(self.stages)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        x = (images - self.mean) / self.std
        for entry, stage in zip(self.entries, self.stages, strict=True):
            x = stage(entry(x))
        return self.readout(x)

    def readout(self, z: Tensor) -> Tensor:
        """Logits of a state of the last stage."""
        return self.head(self.norm(z).mean(dim=(2, 3)))
