"""Image classifiers of contractive equilibria, and the explicit networks that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.implicit import EquationAdjoint, FixedPointSolver, Picard
from deqzoo.models.common.image_classifier import ImageClassifier
from deqzoo.nn.contractive import ContractiveConvCell
from deqzoo.nn.deq import DEQ
from deqzoo.nn.flip_equivariant import PairMean, make_flip_equivariant
from deqzoo.nn.whitening import Whitening

BODIES = ("equilibrium", "once", "explicit")
HEAD_SCALE = 1 / 9


def contractive_net(
    size: tuple[int, int],
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    widths: Sequence[int],
    body: str = "equilibrium",
    halve_first: bool = True,
    flip_equivariant: bool = False,
    rho_max: float = 0.9,
    rho: float = 0.7,
    solver: FixedPointSolver | None = None,
    adjoint: EquationAdjoint | None = None,
) -> ImageClassifier:
    """Stages z = relu(W z + b(x)), b(x) = BN(maxpool(U x)), of a `ContractiveConvCell` each.

    A frozen whitening of 2x2 patches comes before them (see `Whitening`), the maximum of each channel over the image
    and a linear layer behind. U is a 3x3 convolution and BN batch normalisation without scale, outside the equilibrium.

    Args:
        size: height and width of the images; each stage halves the resolution.
        widths: channels of the stages.
        body: "equilibrium"; "once", the same with each cell applied once, to its start; or "explicit", of the same
            number of parameters, z = gelu(BN(V gelu(b(x)))).
        halve_first: the first stage halves the resolution, too; False, for images of few pixels: it does not.
        flip_equivariant: the logits of an image and of its mirror image are the same, by tied weights (see
            `nn.flip_equivariant`), which halves the number of parameters; images of even width alone.
        rho_max, rho: of the cells.
        solver, adjoint: see `DEQ`; None: `Picard` to 1e-3, and the exact gradient.

    The explicit body and the recipe are those of Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU", 2024.

    >>> contractive_net((8, 8), ["a", "b"], [0.5], [0.5], widths=[4])(torch.rand(3, 1, 8, 8)).shape
    torch.Size([3, 2])
    """
    if body not in BODIES:
        raise ValueError(f"body={body}: valid are {', '.join(BODIES)}")
    if not widths or min(widths) < 1:
        raise ValueError(f"widths={list(widths)}: give one stage or more, each of one channel or more")
    stem = Whitening(len(mean), symmetric=flip_equivariant)
    activation: nn.Module = nn.GELU() if body == "explicit" else nn.ReLU()
    grid, before = (size[0] - 1, size[1] - 1), stem.channels
    stages = []
    for i, width in enumerate(widths):
        pool = 2 if i or halve_first else 1
        if flip_equivariant and pool > 1 and grid[1] % 2 == 0:
            raise ValueError(
                f"flip_equivariant=True needs stages of an odd width, whose left and right are halved alike: images of "
                f"{size[1]} pixels have {grid[1]} before stage {i + 1}; 32 or 16 would do, or fewer widths"
            )
        grid = grid[0] // pool, grid[1] // pool
        if min(grid) < 1:
            raise ValueError(f"widths={list(widths)}: images of {size[0]}x{size[1]} pixels cannot be halved so often")
        layer: nn.Module
        if body == "explicit":
            layer = ExplicitLayer(width)
        else:
            cell = ContractiveConvCell(width, grid, rho_max=rho_max, rho=rho)
            solver = Picard(tol=1e-3, max_steps=30) if solver is None else solver
            layer = DEQ(cell, solver=solver, adjoint=adjoint) if body == "equilibrium" else AppliedOnce(cell)
        stages.append(nn.Sequential(Injection(before, width, pool, overlapping=flip_equivariant), layer))
        before = width
    network = ImageClassifier(
        classes=classes,
        mean=mean,
        std=std,
        stem=nn.Sequential(stem, activation),
        body=nn.Sequential(*stages),
        head=MaxPoolLinear(before, len(classes), flip_equivariant),
    )
    if flip_equivariant:
        make_flip_equivariant(network)
    return network


class Injection(nn.Module):
    """b(x) = BN(maxpool(U x)), U a 3x3 convolution that starts as the identity on the first channels.

    Args:
        before, after: channels.
        pool: the maximum is taken of pool x pool pixels, and the resolution falls by as much.
        overlapping: it is taken of 3x3 pixels instead, which treats left and right alike where their number is odd.
    """

    def __init__(self, before: int, after: int, pool: int = 2, overlapping: bool = False) -> None:
        super().__init__()
        self.pool = pool
        self.window = 3 if overlapping and pool > 1 else pool
        self.conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm = UnscaledBatchNorm(after)
        _identity_on_first(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, after, height // pool, width // pool)."""
        return self.norm(F.max_pool2d(self.conv(x), self.window, self.pool))


class UnscaledBatchNorm(nn.BatchNorm2d):
    """Batch normalisation with a bias for each channel, and no scale."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False)
        self.bias = nn.Parameter(torch.zeros(channels))


class AppliedOnce(nn.Module):
    """The cell applied once, to its start: an equilibrium without its iterations."""

    def __init__(self, cell: ContractiveConvCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """f(f(0, x), x)."""
        return self.cell(self.cell.initial_state(x), x, self.cell.prepare(x))


class ExplicitLayer(nn.Module):
    """x -> gelu(BN(V gelu(x))), V a 3x3 convolution that starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = UnscaledBatchNorm(channels)
        _identity_on_first(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Of x's shape."""
        return F.gelu(self.norm(self.conv(F.gelu(x))))


class MaxPoolLinear(nn.Module):
    """The maximum of each channel over the image, and a linear layer without bias, times 1/9.

    With `flip_equivariant` the layer sees the mean of each pair of channels.
    """

    def __init__(self, features: int, classes: int, flip_equivariant: bool = False) -> None:
        super().__init__()
        self.merge = PairMean() if flip_equivariant else nn.Identity()
        self.linear = nn.Linear(features // 2 if flip_equivariant else features, classes, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Logits, (batch, classes)."""
        return HEAD_SCALE * self.linear(self.merge(z.amax((2, 3))))


def _identity_on_first(kernel: Tensor) -> None:
    """The first outputs, one per input, hand the inputs on; the others stay as they are."""
    inputs = kernel.shape[1]
    if len(kernel) >= inputs:
        with torch.no_grad():
            nn.init.dirac_(kernel[:inputs])
