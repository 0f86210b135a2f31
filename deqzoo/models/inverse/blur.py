"""A Gaussian blur with noise: what is measured of an image, and the linear filters that undo it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deqzoo.implicit.sending import send
from deqzoo.models.common.images import psnr_of

TEST_SEED = 0  # of the noise in validation and test


class GaussianBlur(nn.Module):
    """y = A x + noise e, A the circular convolution with a Gaussian, and e ~ N(0, I).

    A is diagonal in the Fourier basis: its products and inverses take a transform and its inverse.

    Args:
        size: side of the kernel in pixels, odd; beyond it the Gaussian is cut off, and the rest is scaled to sum 1.
        variance: of the Gaussian, in squared pixels.
        noise: standard deviation of the noise, of pixels in [0, 1].

    >>> blur = GaussianBlur(3, 1.0, 0.01)
    >>> images = torch.rand(2, 3, 8, 6)
    >>> torch.allclose(blur(images).mean((2, 3)), images.mean((2, 3)))
    True
    """

    kernel: Tensor

    def __init__(self, size: int, variance: float, noise: float) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise ValueError(f"blur_size={size} must be odd and at least 1")
        if not (variance > 0 and noise > 0):
            raise ValueError(f"blur_variance={variance} and noise={noise} must be positive")
        self.size, self.variance, self.noise = size, variance, noise
        distance = torch.arange(size) - size // 2
        line = torch.exp(-(distance**2) / (2 * variance))
        self.register_buffer("kernel", torch.outer(line, line) / line.sum() ** 2, persistent=False)

    def response(self, images: Tensor) -> Tensor:
        """The factor of each frequency, (height, width // 2 + 1): real, as the kernel is even.

        Raises:
            ValueError: the kernel does not fit on the images.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ValueError(f"images of {height}x{width} pixels are smaller than the blur, of {self.size}x{self.size}")
        padded = nn.functional.pad(self.kernel, (0, width - self.size, 0, height - self.size))
        return torch.fft.rfft2(_full(padded).roll((-(self.size // 2), -(self.size // 2)), (0, 1))).real

    def forward(self, images: Tensor) -> Tensor:
        """A x, of images (B, C, height, width)."""
        return filtered(images, self.response(images))

    def measured(self, images: Tensor, seed: int | None = None) -> Tensor:
        """y: blurred, and with noise, of torch's generator or always that of a ``seed``."""
        if seed is None:
            return self(images) + self.noise * torch.randn_like(images)
        random = torch.Generator().manual_seed(seed)  # of the CPU: the same noise on each device
        noise = send(torch.randn(images.shape, generator=random, dtype=images.dtype), images.device)
        return self(images) + self.noise * noise

    def wiener(self, measured: Tensor, noise_to_signal: float | Tensor) -> Tensor:
        """The Wiener filter (A^T A + c)^-1 A^T y, for a noise-to-signal ratio c, a number or of each frequency.

        Source: Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949.
        """
        response = self.response(measured)
        return filtered(measured, response / (response.square() + noise_to_signal))


def filtered(images: Tensor, factors: Tensor) -> Tensor:
    """Images of which each frequency is multiplied by a real factor, (height, width // 2 + 1)."""
    return torch.fft.irfft2(torch.fft.rfft2(_full(images)) * factors, s=images.shape[-2:]).to(images.dtype)


def _full(tensor: Tensor) -> Tensor:
    """In float32 or better: Fourier transforms have no half precision on a CPU, and few sizes on a GPU."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def psnr(images: Tensor, truth: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of each image (dB), whose pixels lie in [0, 1].

    >>> psnr(torch.full((1, 3, 4, 4), 0.1), torch.zeros(1, 3, 4, 4))
    tensor([20.])
    """
    return psnr_of((images - truth).square().flatten(1).mean(1))
