"""Pixels as real numbers, for densities of images: dequantisation, and maps of each pixel onto the real line."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deqzoo.implicit.sending import send
from deqzoo.nn.flow import LOG_2PI

EDGE = 1e-9  # least probability of a tail: a value on the edge of [0, 1] stays finite


def dequantize(images: Tensor, levels: int, generator: Generator | None = None) -> Tensor:
    """Pixels of `levels` values, 0 to 1 in equal steps, spread evenly over `levels` intervals of [0, 1).

    The mean log density of the result is at most the log probability of the image, up to the volume of an interval:
    see `ImageFlow.bits_per_dim`.

    Source: Theis, van den Oord, Bethge, "A note on the evaluation of generative models", 2016.

    >>> dequantize(torch.tensor([0.0, 1.0]), levels=2).mul(2).floor()
    tensor([0., 1.])
    """
    noise = torch.rand(images.shape, generator=generator, dtype=images.dtype)
    return (images * (levels - 1) + send(noise, images.device)) / levels


class Logit(nn.Module):
    """log(s / (1 - s)) with s = alpha + (1 - 2 alpha) x: the same map for every pixel.

    Args:
        alpha: between 0 and 1/2, keeps s away from 0 and 1.

    Source: Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2017.

    >>> y, slope = Logit(0.05)(torch.full((2, 1, 4, 4), 0.5))
    >>> y.abs().max().item(), slope.shape
    (0.0, torch.Size([2]))
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha={alpha} must lie between 0 and 1/2")
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y of x's shape (B, ...), and log |dy/dx| summed over a sample's values, (B,)."""
        s = self.alpha + (1 - 2 * self.alpha) * x
        up, down = s.log(), (1 - s).log()
        return up - down, (math.log(1 - 2 * self.alpha) - up - down).flatten(1).sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """x, cut to [0, 1]."""
        return ((y.sigmoid() - self.alpha) / (1 - 2 * self.alpha)).clamp(0, 1)


class Gaussianization(nn.Module):
    r"""Phi^-1(F_i(x_i)): each pixel i by its own distribution function F_i, so that alone it is standard normal.

    F_i is piecewise linear: `fit` counts how often each of the levels occurs in the training images. Where a pixel
    is 0 in nearly all of them, as at the border of digits, nothing of it is left to be learned. Before `fit`, F_i is
    that of uniform noise.

    Args:
        size: shape of an image, (C, H, W).
        levels: values that a pixel may have.
        pseudo_count: added to each count, so that no level is impossible.

    Source: Chen, Gopinath, "Gaussianization", 2000.

    >>> pixels = Gaussianization((1, 2, 2), levels=17)
    >>> pixels.fit(torch.randint(0, 17, (100, 1, 2, 2)) / 16)
    >>> x = torch.rand(3, 1, 2, 2)
    >>> y, slope = pixels(x)
    >>> torch.allclose(pixels.inverse(y), x, atol=1e-4), slope.shape
    (True, torch.Size([3]))
    """

    mass: Tensor

    def __init__(self, size: tuple[int, ...], levels: int, pseudo_count: float = 0.1) -> None:
        super().__init__()
        self.levels, self.pseudo_count = levels, pseudo_count
        self.register_buffer("mass", torch.full((math.prod(size), levels), 1 / levels))  # (D, levels), of rows of sum 1

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the distribution of each pixel of images (N, C, H, W), 0 to 1 in equal steps."""
        values = (images.flatten(1) * (self.levels - 1)).round().long()
        cells = values + self.levels * torch.arange(len(self.mass), device=values.device)
        counts = torch.bincount(cells.flatten(), minlength=self.mass.numel()).view_as(self.mass).double()
        counts += self.pseudo_count
        self.mass.copy_(counts / counts.sum(1, keepdim=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y of x's shape (B, C, H, W), and log |dy/dx| summed over a sample's values, (B,)."""
        flat = x.flatten(1) * self.levels
        level = flat.detach().long().clamp(0, self.levels - 1).T
        mass = self.mass.gather(1, level).T
        inside = mass * (flat - level.T)
        below = below_each(self.mass).gather(1, level).T + inside
        above = below_each(self.mass.flip(1)).flip(1).gather(1, level).T + mass - inside
        # From the nearer tail, where a probability next to 0 has all its digits.
        tail = torch.minimum(below, above).clamp(min=EDGE)
        y = torch.where(below < above, 1.0, -1.0) * torch.special.ndtri(tail)
        slope = (mass * self.levels).log() + 0.5 * (y.square() + LOG_2PI)
        return y.view(x.shape), slope.sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """x in [0, 1]."""
        flat = y.flatten(1).T
        tail = torch.special.ndtr(-flat.abs())
        x = torch.where(flat < 0, self._quantile(self.mass, tail), 1 - self._quantile(self.mass.flip(1), tail))
        return x.T.reshape(y.shape)

    def _quantile(self, mass: Tensor, probability: Tensor) -> Tensor:
        """The quantiles of `mass` (D, levels) on [0, 1] at `probability` (D, B): (D, B)."""
        below = below_each(mass)
        level = (torch.searchsorted(below, probability.contiguous(), right=True) - 1).clamp(0, self.levels - 1)
        inside = (probability - below.gather(1, level)) / mass.gather(1, level)
        return (level + inside.clamp(0, 1)) / self.levels


def below_each(mass: Tensor) -> Tensor:
    """Sum of what comes before each entry of a row."""
    return F.pad(mass.cumsum(1)[:, :-1], (1, 0))
