"""Image classifiers of any body, and the explicit one that equilibria are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqzoo.models.common.head import ClassifierNetwork
from deqzoo.models.common.images import check_images
from deqzoo.nn.deq import DEQ
from deqzoo.nn.layer import solver_layers


class ImageClassifier(ClassifierNetwork):
    """Normalisation, stem, body, head.

    Args:
        classes: names of the classes.
        mean, std: per-channel statistics; the normalisation is part of the network.
        stem: images -> what the body takes.
        body: an equilibrium, or ordinary layers.
        head: what the body gives -> logits.

    Images are float in [0, 1], (batch, channels, height, width); the result is logits, (batch, len(classes)).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        stem: nn.Module,
        body: nn.Module,
        head: nn.Module,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self.stem, self.body, self.head = stem, body, head

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layers, in order."""
        return [layer for layer in solver_layers(self) if isinstance(layer, DEQ)]

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        check_images(images, len(self.mean))
        return self.head(self.body(self.stem((images - self.mean) / self.std)))
