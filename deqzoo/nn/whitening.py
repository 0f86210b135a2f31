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

    Source: Page, "How to train your ResNet 8: bag of tricks", 2019; Jordan, arXiv:2404.00498.

    >>> whitening, images = Whitening(1), torch.rand(64, 1, 8, 8)
    >>> whitening.fit(images)
    >>> y = whitening(images)[:, :4].transpose(0, 1).flatten(1)
    >>> torch.allclose(y @ y.T / y.shape[1], torch.eye(4), atol=0.05)
    True
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.channels = 8 * in_channels
        self.weight = nn.Parameter(torch.empty(self.channels, in_channels, 2, 2), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(self.channels))
        nn.init.orthogonal_(self.weight[: 4 * in_channels])
        self.weight[4 * in_channels :].copy_(-self.weight[: 4 * in_channels])

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Take the second moments of the patches of normalised images (N, in_channels, height, width)."""
        patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        kernels = (directions / (variances + SMALLEST).sqrt()).T.flip(0).reshape(self.weight[: len(variances)].shape)
        self.weight.copy_(torch.cat([kernels, -kernels]))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 8 in_channels, height - 1, width - 1)."""
        return F.conv2d(x, self.weight, self.bias)
