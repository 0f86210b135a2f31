"""A network that undoes a blur by an equilibrium."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.models.common.images import check_images
from deqzoo.models.inverse.blur import GaussianBlur, filtered
from deqzoo.nn import DEQ

LARGEST = 2.0  # absolute value of a pixel in [0, 1] with noise
FACTOR = 2  # by which the regulariser's images are smaller than the measured ones


class Regulariser(nn.Module):
    """R(z) = a z + g(z): images to images, a a number, and g convolutions at half the resolution.

    g takes the four pixels of each 2x2 block as channels of one. Between its zero-padded 3x3 convolutions is MaxMin:
    of each pair of channels the larger and the smaller value.

    Args:
        channels: of the images.
        width: channels between the convolutions, even.
        depth: convolutions, at least 2.

    Source: of MaxMin, Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation", 2019.

    >>> Regulariser(3, 8, 3)(torch.zeros(2, 3, 10, 12)).shape
    torch.Size([2, 3, 10, 12])
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        if depth < 2 or width < 2 or width % 2:
            raise ValueError(f"depth={depth} must be at least 2, and width={width} even and at least 2")
        blocks = channels * FACTOR**2
        widths = [blocks, *[width] * (depth - 1), blocks]
        self.layers = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(widths))
        self.skip = nn.Parameter(torch.tensor(0.5))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)  # type: ignore[index, arg-type, union-attr, operator]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        """Of z's shape, whose height and width are even."""
        hidden = F.pixel_unshuffle(z, FACTOR)
        for layer in self.layers[:-1]:
            first, second = layer(hidden).chunk(2, dim=1)
            hidden = torch.cat([torch.maximum(first, second), torch.minimum(first, second)], dim=1)
        return self.skip * z + F.pixel_shuffle(self.layers[-1](hidden), FACTOR)


class DeblurCell(nn.Module):
    """f(z, x) = P R(z) + x: what the blur has left is x, and R fills in what it has taken.

    P = c (A^T A + c)^-1 is near 0 at the frequencies that pass the blur A, and near 1 at those that do not.

    Args:
        blur: A.
        channels, width, depth: see `Regulariser`.
    """

    def __init__(self, blur: GaussianBlur, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.blur = blur
        self.regulariser = Regulariser(channels, width, depth)
        self.log_weight = nn.Parameter(torch.tensor(math.log(0.01)))

    def inject(self, measured: Tensor) -> Tensor:
        """x = (A^T A + c)^-1 A^T y of what was measured, y."""
        return self.blur.wiener(measured, self.log_weight.exp())

    def prepare(self, x: Tensor) -> Tensor:
        """P, as a factor of each frequency."""
        weight = self.log_weight.exp()
        return weight / (self.blur.response(x).square() + weight)

    def forward(self, z: Tensor, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """f(z, x), of z's shape."""
        return filtered(self.regulariser(z), self.prepare(x) if factors is None else factors) + x

    def initial_state(self, x: Tensor) -> Tensor:
        """x."""
        return x.to(torch.promote_types(x.dtype, torch.float32))


class DeblurNetwork(nn.Module):
    """Undoes a blur with noise, y = A x + e, by an equilibrium with a learned regulariser R:

        z* = (A^T A + c)^-1 (A^T y + c R(z*))

    z* minimises |A z - y|^2 + c |z - R(z*)|^2: it agrees with what was measured, and with what R makes of it. The
    number c > 0 is learned, too. (The paper's DE-PROX has R and the data the other way about, with a gradient step on
    the data, z = R(z - eta A^T (A z - y)); as A is a circular convolution, their proximal step, which keeps what was
    measured well, costs no more.)

    Args:
        in_channels: of the images.
        blur_size, blur_variance, noise: see `GaussianBlur`.
        width, depth: see `Regulariser`.
        solver, adjoint: see `deqzoo.nn.DEQ`; each image is a system of its own. With
            `Picard(max_steps=k, stop="never")` and `Unrolled()` it is the unrolled network of k steps.

    Source: Gilton, Ongie, Willett, "Deep Equilibrium Architectures for Inverse Problems in Imaging", 2021.

    >>> from deqzoo.implicit import Picard
    >>> network = DeblurNetwork(3, width=8, depth=2, solver=Picard(max_steps=6, stop="never")).eval()
    >>> network(torch.rand(2, 3, 12, 16)).shape
    torch.Size([2, 3, 12, 16])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        blur_size: int = 9,
        blur_variance: float = 5.0,
        noise: float = 0.01,
        width: int = 32,
        depth: int = 4,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.blur = GaussianBlur(blur_size, blur_variance, noise)
        self.deq = DEQ(DeblurCell(self.blur, in_channels, width, depth), solver=solver, adjoint=adjoint, compact=True)

    @property
    def equilibria(self) -> list[DEQ]:
        """The equilibrium layer."""
        return [self.deq]

    def forward(self, measured: Tensor) -> Tensor:
        """Images (B, in_channels, height, width) of blurred ones, of pixels in [0, 1] but for noise.

        Raises:
            ValueError: other channels, integers, an odd height or width, or one smaller than the blur.
        """
        check_images(measured, self.in_channels)
        height, width = measured.shape[2:]
        if height % FACTOR or width % FACTOR:
            raise ValueError(f"height and width must be even, got {height}x{width}: cut off a row or a column")
        if not len(measured):  # of which some builds of MKL refuse the transform
            return measured
        return self.deq(self.deq.cell.inject(measured))

    @torch.no_grad()
    def deblur(self, image: Tensor) -> Tensor:
        """A blurred image, or several, restored.

        Args:
            image: ([B,] in_channels, height, width), float of pixels in [0, 1], or uint8 of 0 to 255. The blur is
                assumed to be the network's own, and circular, which at the edges of a photograph it is not.

        Returns:
            float of pixels in [0, 1], of the same shape.

        >>> from deqzoo.implicit import Picard
        >>> network = DeblurNetwork(3, width=8, depth=2, solver=Picard(max_steps=6, stop="never")).eval()
        >>> network.deblur(torch.zeros(3, 32, 48, dtype=torch.uint8)).shape
        torch.Size([3, 32, 48])
        """
        if image.dim() not in (3, 4):
            raise ValueError(f"deblur takes an image ({self.in_channels}, height, width), got {tuple(image.shape)}")
        if image.dtype == torch.uint8:
            image = image / 255
        elif not image.is_floating_point():
            raise ValueError(f"deblur takes pixels as float in [0, 1], or as uint8, got {image.dtype}")
        if image.numel() and image.abs().amax() > LARGEST:
            raise ValueError(f"deblur takes float pixels in [0, 1], got up to {image.abs().amax():.4g}: divide by 255")
        images = image if image.dim() == 4 else image[None]
        return self(images.to(self.deq.cell.log_weight.dtype)).clamp(0, 1).reshape(image.shape)
