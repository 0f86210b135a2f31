"""Monotone operator equilibrium networks: the layer, and image classifiers with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..implicit import FixedPointSolver, Gradient, PeacemanRachford
from ..implicit.solution import OnFailure
from .deq import DEQ
from .monotone import MonotoneCell, MonotoneLinear
from .monotone_conv import MonotoneConv2d


class MonDEQ(DEQ):
    """The equilibrium z* = relu(W z* + x) of a `MonotoneCell`, which exists and is unique for every weight.

    W is made of the parameters once a forward (for convolutions: its spectra), and differentiated through once. The
    adjoint system is left to the gradient's linear solver: GMRES finds the smallest residual in the space from which
    forward-backward splitting would take its iterates, at the same products with W^T.

    Args:
        cell: `MonotoneLinear`, `MonotoneConv2d`.
        solver: also `Anderson`, `Picard` and the like, which know nothing of W and may fail to converge.
        gradient, on_failure: see `DEQ`.

    Source: Winston, Kolter, "Monotone operator equilibrium networks", 2020.

    >>> mondeq = MonDEQ(MonotoneLinear(4))
    >>> z = mondeq(torch.randn(3, 4))
    >>> bool((z >= 0).all()), mondeq.solution.converged
    (True, tensor([True, True, True]))
    """

    def __init__(
        self,
        cell: MonotoneCell,
        *,
        solver: FixedPointSolver | None = None,
        gradient: Gradient | None = None,
        on_failure: OnFailure = "ignore",
    ) -> None:
        solver = PeacemanRachford(tol=1e-3) if solver is None else solver
        super().__init__(cell, solver=solver, gradient=gradient, on_failure=on_failure)

    def equation(self, z0: Any, x: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The cell itself, which reads its parameters in W alone."""
        return self.cell, (x, self.cell.weight(x))


class MonDEQClassifier(nn.Module):
    """Normalisation, a layer that injects, an equilibrium, a linear head: see `mondeq_fc`, `mondeq_conv`.

    Args:
        classes: names of the classes.
        mean, std: per-channel statistics; the normalisation is part of the network.
        stem: images -> injection.
        body: injection -> state.
        head: state -> logits.

    Images are float in [0, 1], (batch, channels, height, width); the result is logits, (batch, len(classes)).
    """

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
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self.stem, self.body, self.head = stem, body, head

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layer, or none in `plain_conv`."""
        return [self.body] if isinstance(self.body, DEQ) else []

    def forward(self, images: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        return self.head(self.body(self.stem((images - self.mean) / self.std)))


def mondeq_fc(
    in_features: int,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    features: int,
    margin: float = 1.0,
    **solving: Any,
) -> MonDEQClassifier:
    """The fully connected monDEQ: z* = relu(W z* + U x + b) of `features` units, for images of `in_features` pixels.

    >>> mondeq_fc(64, ["a", "b"], [0.5], [0.5], features=20)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    return MonDEQClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(nn.Flatten(), nn.Linear(in_features, features)),
        body=MonDEQ(MonotoneLinear(features, margin), **solving),
        head=nn.Linear(features, len(classes)),
    )


def mondeq_conv(
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    widths: Sequence[int],
    margin: float = 1.0,
    stride: int = 1,
    grid: int = 4,
    **solving: Any,
) -> MonDEQClassifier:
    """The convolutional monDEQ, of a single convolution or several tiers (see `MonotoneConv2d`).

    Args:
        widths: channels of the tiers.
        stride: of the 3x3 convolution that injects the image.
        grid: the last tier is averaged to grid x grid positions for the head.
        solving: solver and gradient, see `MonDEQ`.

    >>> mondeq_conv(["a", "b"], [0.5], [0.5], widths=[4, 8], grid=2)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    cell = MonotoneConv2d(widths, margin)
    return MonDEQClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(_conv(len(mean), widths[0], stride, bias=True), nn.ZeroPad2d(cell.borders[0])),
        body=MonDEQ(cell, **solving),
        head=nn.Sequential(_LastTier(cell), _pooled_linear(widths[-1], grid, len(classes))),
    )


def plain_conv(
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    width: int,
    stride: int = 1,
    grid: int = 4,
) -> MonDEQClassifier:
    """The explicit twin of `mondeq_conv` with one width: A and B as two ordinary layers, one after the other."""
    return MonDEQClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(_conv(len(mean), width, stride, bias=True), nn.ReLU()),
        body=nn.Sequential(_conv(width, width), nn.ReLU(), _conv(width, width), nn.ReLU()),
        head=_pooled_linear(width, grid, len(classes)),
    )


class _LastTier(nn.Module):
    """The last tier of a state, without its border."""

    def __init__(self, cell: MonotoneConv2d) -> None:
        super().__init__()
        self.border = cell.borders[-1]

    def forward(self, z: tuple[Tensor, ...]) -> Tensor:
        border = self.border
        return nn.functional.pad(z[-1], 4 * [-border])


def _conv(before: int, after: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=bias)


def _pooled_linear(width: int, grid: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Flatten(), nn.Linear(width * grid**2, classes))
