"""Image classifiers whose body is a chain of equilibrium layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.models.common.head import ClassifierNetwork
from deqzoo.models.common.images import check_images
from deqzoo.models.equilibrium.convolutions import normalised_conv
from deqzoo.nn.cells import make_cell
from deqzoo.nn.deq import DEQ
from deqzoo.nn.flip_equivariant import PairMean, make_flip_equivariant


class DEQClassifier(ClassifierNetwork):
    """Per width one equilibrium stage, entered by a convolution of stride 2 (the first: 1); pooling, linear head.

    Args:
        in_channels: channels of the images.
        classes: names of the classes.
        mean, std: per-channel statistics; the normalisation is part of the network.
        widths: channels of the stages; each further stage halves the resolution.
        stem: channels of a convolution at full resolution before the first stage, which then halves it, too; 0: none.
        entry_kernel: size of the convolutions between the stages, 2 or 3; 2 leaves more of the work to the cells.
        entry_norm: "group" or "batch", the normalisation outside the cells. With "batch" the head's stands behind the
            pooling, and in training the samples of a batch depend on one another; in eval mode they never do.
        entry_groups: of the group normalisations outside the cells.
        cell: its name in `deqzoo.nn.CELLS`.
        cell_options: of its constructor.
        flip_equivariant: the logits of an image and of its mirror image are the same, by tied weights (see
            `nn.flip_equivariant`), which halves the parameters; needs even widths and `entry_kernel` 2.
        solver, adjoint: of the equilibrium layers, see `DEQ`.

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
        stem: int = 0,
        entry_kernel: int = 3,
        entry_norm: str = "group",
        entry_groups: int = 8,
        cell: str = "residual",
        cell_options: Mapping[str, Any] | None = None,
        flip_equivariant: bool = False,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        super().__init__()
        if not len(mean) == len(std) == in_channels:
            raise ValueError(f"mean and std need one value for each of the {in_channels} channels")
        if not widths or min(widths) < 1:
            raise ValueError(f"widths={list(widths)}: give one stage or more, each of one channel or more")
        if entry_kernel not in (2, 3):
            raise ValueError(f"entry_kernel must be 2 or 3, got {entry_kernel}")
        if entry_norm not in ("group", "batch"):
            raise ValueError(f"entry_norm {entry_norm!r} is unknown; valid are group, batch")
        if entry_norm == "group" and any(width % entry_groups for width in (stem, *widths)):
            raise ValueError(f"entry_groups={entry_groups} must divide stem={stem} and widths={list(widths)}")
        norm_groups = entry_groups if entry_norm == "group" else None
        self.classes = tuple(classes)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        before = in_channels
        self.stem: nn.Module = nn.Identity()
        if stem:
            self.stem = nn.Sequential(normalised_conv(before, stem, 3, 1, norm_groups), nn.ReLU())
            before = stem
        entries, stages = [], []
        for i, width in enumerate(widths):
            kernel, stride = (entry_kernel, 2) if stem or i else (3, 1)
            entries.append(normalised_conv(before, width, kernel, stride, norm_groups))
            stages.append(DEQ(_made(cell, width, cell_options or {}), solver=solver, adjoint=adjoint))
            before = width
        self.entries = nn.ModuleList(entries)
        self.stages = nn.ModuleList(stages)
        self.pool_first = entry_norm == "batch"  # not by the norm's class: `trainer.sync_batchnorm` exchanges it
        features = before // 2 if flip_equivariant else before
        self.norm = nn.GroupNorm(entry_groups, before) if norm_groups else nn.BatchNorm1d(features)
        self.merge = PairMean() if flip_equivariant else nn.Identity()
        self.head = nn.Linear(features, len(self.classes))
        if flip_equivariant:
            make_flip_equivariant(self)

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layers, in order."""
        return list(self.stages)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        check_images(images, len(self.mean))
        x = self.stem((images - self.mean) / self.std)
        for entry, stage in zip(self.entries, self.stages, strict=True):
            x = stage(entry(x))
        return self.readout(x)

    def readout(self, z: Tensor) -> Tensor:
        """Logits of a state of the last stage."""
        if self.pool_first:
            return self.head(self.norm(self.merge(z.mean(dim=(2, 3)))))
        return self.head(self.merge(self.norm(z).mean(dim=(2, 3))))


def _made(cell: str, width: int, options: Mapping[str, Any]) -> nn.Module:
    """The cell of one stage; the message of an error begins with the option to be changed."""
    try:
        return make_cell(cell, width, **options)
    except ValueError as error:
        raise ValueError(f"cell={cell}: {error}") from error
