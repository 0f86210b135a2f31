"""Patches of images made uncorrelated, by a convolution that is computed and not trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST = 5e-4  # added to the variances: directions of less are noise


class Whitening(nn.Module):
    """A convolution by the principal directions of 2x2 patches, each scaled to variance one, and by their negatives.

    Its kernels are frozen: `fit` computes them from images. Its biases are trained.

    Args:
        in_channels: of the images; there are 8 times as many `channels` out.
        symmetric: the images and their mirror images are whitened together. Then each direction is its own mirror
            image, or the negative of it, `partners` says what a mirror image does to the channels, and those that it
            exchanges have one bias.

    Source: Page, "How to train your ResNet 8: bag of tricks", 2019; Jordan, arXiv:2404.00498.

    >>> whitening, images = Whitening(1), torch.rand(64, 1, 8, 8)
    >>> whitening.fit(images)
    >>> y = whitening(images)[:, :4].transpose(0, 1).flatten(1)
    >>> torch.allclose(y @ y.T / y.shape[1], torch.eye(4), atol=0.05)
    True
    """

    def __init__(self, in_channels: int, symmetric: bool = False) -> None:
        super().__init__()
        self.channels, self.symmetric = 8 * in_channels, symmetric
        self.weight = nn.Parameter(torch.empty(self.channels, in_channels, 2, 2), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(6 * in_channels if symmetric else self.channels))
        directions = nn.init.orthogonal_(torch.empty(4 * in_channels, 4 * in_channels))
        self._set(_even_and_odd(in_channels, directions.dtype, directions.device) if symmetric else directions)

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the second moments of the patches of normalised images (N, in_channels, height, width)."""
        patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        moments = patches.T @ patches / len(patches)
        if not self.symmetric:
            self._set(_scaled_directions(moments))
            return
        parts = _even_and_odd(len(moments) // 4, moments.dtype, moments.device).chunk(2)
        self._set(torch.cat([_scaled_directions(part @ moments @ part.T) @ part for part in parts]))

    def partners(self) -> Tensor:
        """Of each channel, the one of which the mirror image of the input has its values, mirrored: even, odd, -, -.

        Raises:
            ValueError: it is not symmetric.
        """
        if not self.symmetric:
            raise ValueError("only a symmetric whitening has channels that a mirror image exchanges")
        even, odd, negative_even, negative_odd = torch.arange(self.channels).chunk(4)
        return torch.cat([even, negative_odd, negative_even, odd])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8 in_channels, height - 1, width - 1)."""
        bias: Tensor = self.bias
        if self.symmetric:
            even, odd, negative_even = bias.chunk(3)
            bias = torch.cat([even, odd, negative_even, odd])
        return F.conv2d(x, self.weight, bias)

    @torch.no_grad()
    def _set(self, directions: Tensor) -> None:
        kernels = directions.view(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([kernels, -kernels]))


def _scaled_directions(moments: Tensor) -> Tensor:
    """Principal directions, as rows, largest first, each over the root of its second moment."""
    variances, directions = torch.linalg.eigh(moments)
    return (directions / (variances + SMALLEST).sqrt()).T.flip(0)


def _even_and_odd(in_channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An orthonormal basis of 2x2 patches: those that are their mirror images, then those that are its negatives."""
    rows = torch.eye(2 * in_channels, dtype=dtype, device=device).view(-1, in_channels, 2, 1) * 0.5**0.5
    return torch.cat([torch.cat([rows, sign * rows], dim=3).flatten(1) for sign in (1, -1)])
