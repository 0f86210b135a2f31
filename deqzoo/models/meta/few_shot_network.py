"""The convolutional network of few-shot learning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from deqzoo.models.common.head import HeadedNetwork
from deqzoo.models.common.images import check_images

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "softplus": nn.Softplus}


class FewShotNetwork(HeadedNetwork):
    """Four convolutions with stride 2, each with a batch norm and an activation, and a linear head.

    The batch norms take the statistics of the batch that they see: there are no others for a new task. Queries that are
    asked together so know a little of each other, as in the published results; a network that `MetaLearner.adapt`
    returns has the statistics of the support set instead. A smooth activation gives the inner problem of iMAML regular
    minima, which ReLU does not.

    Args:
        in_channels: channels of the images.
        size: (height, width).
        ways: classes of an episode.
        mean, std: per channel; the normalisation is part of the network.
        width: channels of the convolutions.
        activation: silu, relu or softplus.
        zero_head: a task's head starts at zero, and this start is not learned. An episode's classes have no order, so
            what a learned head knows beyond that is chance.

    Images are float in [0, 1], (batch, in_channels, height, width); the result is logits, (batch, ways).

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017; Kao,
    Chiu, Chen, "MAML is a Noisy Contrastive Learner in Classification", 2022, for the head that starts at zero.

    >>> FewShotNetwork(1, (28, 28), ways=5, mean=[0.9], std=[0.2], width=8)(torch.rand(3, 1, 28, 28)).shape
    torch.Size([3, 5])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        in_channels: int,
        size: tuple[int, int],
        ways: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        width: int = 64,
        activation: str = "silu",
        zero_head: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation}: valid are {', '.join(sorted(ACTIVATIONS))}")
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        layers: list[nn.Module] = []
        for before, after in pairwise([in_channels, *[width] * 4]):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.BatchNorm2d(after, track_running_stats=False),
                ACTIVATIONS[activation](),
            ]
        self.body = nn.Sequential(*layers, nn.Flatten())
        height, length = (-(-side // 16) for side in size)
        self.head = nn.Linear(width * height * length, ways)
        if zero_head:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
            self.head.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, ways)."""
        check_images(images, len(self.mean))
        return self.head(self.body((images - self.mean) / self.std))
