"""Monotone operator equilibrium networks: the layer, and image classifiers with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from ..implicit import FixedPointSolver, Gradient, PeacemanRachford
from ..implicit.modes import full_precision
from ..implicit.solution import OnFailure
from .deq import DEQ
from .image_classifier import ImageClassifier, conv3x3, pooled_linear
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

    >>> import torch
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
        on_failure: OnFailure = "warn",
    ) -> None:
        solver = PeacemanRachford(tol=1e-3) if solver is None else solver
        super().__init__(cell, solver=solver, gradient=gradient, on_failure=on_failure)

    def equation(self, z0: Any, x: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The cell, which reads its parameters in W alone; W is exact under autocast too, for the margin's sake."""
        with full_precision(x.device.type):
            return self.cell, (x, self.cell.weight(x))


def mondeq_fc(
    in_features: int,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    features: int,
    margin: float = 1.0,
    **solving: Any,
) -> ImageClassifier:
    """The fully connected monDEQ: z* = relu(W z* + U x + b) of `features` units, for images of `in_features` pixels.

    >>> import torch
    >>> mondeq_fc(64, ["a", "b"], [0.5], [0.5], features=20)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    return ImageClassifier(
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
) -> ImageClassifier:
    """The convolutional monDEQ, of a single convolution or several tiers (see `MonotoneConv2d`).

    Args:
        widths: channels of the tiers.
        stride: of the 3x3 convolution that injects the image.
        grid: the last tier is averaged to grid x grid positions for the head.
        solving: solver and gradient, see `MonDEQ`.

    >>> import torch
    >>> mondeq_conv(["a", "b"], [0.5], [0.5], widths=[4, 8], grid=2)(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    cell = MonotoneConv2d(widths, margin)
    return ImageClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(conv3x3(len(mean), widths[0], stride), nn.ZeroPad2d(cell.borders[0])),
        body=MonDEQ(cell, **solving),
        head=nn.Sequential(_LastTier(cell), pooled_linear(widths[-1], grid, len(classes))),
    )


class _LastTier(nn.Module):
    """The last tier of a state, without its border."""

    def __init__(self, cell: MonotoneConv2d) -> None:
        super().__init__()
        self.border = cell.borders[-1]

    def forward(self, z: tuple[Tensor, ...]) -> Tensor:
        border = self.border
        return nn.functional.pad(z[-1], 4 * [-border])
