"""Classifiers whose body is a neural ODE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqzoo.implicit.modes import in_transform
from deqzoo.models.common.head import ClassifierNetwork
from deqzoo.models.common.images import check_images
from deqzoo.nn.dynamics import BottleneckDynamics, ConvDynamics, MLPDynamics
from deqzoo.nn.ode import NeuralODE
from deqzoo.nn.tensors import check_tensor


class ODEClassifier(ClassifierNetwork):
    """Normalisation, stem, ODE, head.

    Args:
        classes: names of the classes.
        ode: the body.
        head: state of the ODE -> logits.
        stem: input -> state; None: the input is the state.
        mean, std: per-channel statistics of images; the normalisation is part of the network. None: no normalisation.

    Inputs are (B, ...), images float in [0, 1]; the result is logits, (B, len(classes)).

    >>> model = point_classifier(2, ["inner", "outer"], augment=5)
    >>> model(torch.rand(3, 2)).shape
    torch.Size([3, 2])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        classes: Sequence[str],
        ode: NeuralODE,
        head: nn.Module,
        stem: nn.Module | None = None,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.normalised = tuple(mean) != (0.0,) or tuple(std) != (1.0,)
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self.stem = nn.Identity() if stem is None else stem
        self.ode = ode
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        return self.head(self.ode(self.start(x)))

    def start(self, x: Tensor) -> Tensor:
        """The ODE's start, without the augmentation."""
        if not self.normalised:
            check_tensor("x", x)
            return self.stem(x)
        check_images(x, len(self.mean))
        return self.stem((x - self.mean) / self.std)


def ode_net(
    in_channels: int,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int = 64,
    groups: int = 32,
    **options: object,
) -> ODEClassifier:
    """The ODE-Net of Chen et al. for images of about 28x28: down to 6x6, one ODE block, pooling, a linear layer.

    With one input channel, ten classes and a width of 64 it has 208,266 parameters. `options` are those of `NeuralODE`.
    """

    def norm() -> nn.Module:
        return nn.GroupNorm(groups, width)

    stem = nn.Sequential(
        nn.Conv2d(in_channels, width, 3),
        norm(),
        nn.ReLU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
        norm(),
        nn.ReLU(),
        nn.Conv2d(width, width, 4, stride=2, padding=1),
    )
    augment = _augment(options)
    after = width + augment
    head = nn.Sequential(
        nn.GroupNorm(groups, after), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(after, len(classes))
    )
    ode = NeuralODE(ConvDynamics(after, groups), **options)  # type: ignore[arg-type]
    return ODEClassifier(classes=classes, ode=ode, head=head, stem=stem, mean=mean, std=std)


def anode_net(
    in_channels: int,
    size: tuple[int, int],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    hidden: int = 64,
    **options: object,
) -> ODEClassifier:
    """The (A)NODE of Dupont, Doucet, Teh for images: the ODE's state is the image, a linear layer follows.

    On CIFAR-10 it has 171,799 parameters with 10 augmented channels and 64 hidden ones, 172,358 with 0 and 125.
    `size` is (height, width) of the images; `options` are those of `NeuralODE`.
    """
    channels = in_channels + _augment(options)
    head = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], len(classes)))
    ode = NeuralODE(BottleneckDynamics(channels, hidden), **options)  # type: ignore[arg-type]
    return ODEClassifier(classes=classes, ode=ode, head=head, stem=ChannelsLast(), mean=mean, std=std)


class ChannelsLast(nn.Module):
    """Images (B, C, H, W), the channels of a pixel side by side in memory: wide convolutions take less time then."""

    def forward(self, x: Tensor) -> Tensor:
        """The same images."""
        return x if in_transform() else x.contiguous(memory_format=torch.channels_last)


def point_classifier(
    in_features: int,
    classes: Sequence[str],
    *,
    hidden: int = 32,
    activation: str = "relu",
    **options: object,
) -> ODEClassifier:
    """Points (B, in_features) flow by an MLP's vector field; a linear layer parts the classes.

    `options` are those of `NeuralODE`.
    """
    features = in_features + _augment(options)
    ode = NeuralODE(MLPDynamics(features, hidden, activation), **options)  # type: ignore[arg-type]
    return ODEClassifier(classes=classes, ode=ode, head=nn.Linear(features, len(classes)))


def _augment(options: dict[str, object]) -> int:
    augment = options.get("augment", 0)
    assert isinstance(augment, int)
    return augment
