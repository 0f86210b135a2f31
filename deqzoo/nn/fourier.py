"""Circular convolutions as products at each frequency, where they can also be inverted exactly.

A spectrum is a complex tensor (frequencies, out, in): the response of a circular convolution at each frequency of a
real transform of (height, width), height * (width // 2 + 1) in all. Products, inverses and adjoints (`.mH`) of
spectra are those of the convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


def spectrum(kernel: Tensor, size: Size) -> Tensor:
    """Of the circular convolution (as `torch.nn.Conv2d` has it, odd kernels) with kernel (out, in, k, k) on `size`.

    >>> kernel, z = torch.randn(2, 3, 3, 3), torch.randn(5, 3, 6, 4)
    >>> expected = F.conv2d(F.pad(z, (1, 1, 1, 1), mode="circular"), kernel)
    >>> torch.allclose(from_frequencies(spectrum(kernel, (6, 4)) @ to_frequencies(z), (6, 4)), expected, atol=1e-5)
    True
    """
    (height, width), (rows, columns) = size, kernel.shape[2:]
    if rows > height or columns > width:
        raise ValueError(f"a {rows}x{columns} kernel does not fit on {height}x{width} pixels")
    padded = F.pad(kernel, (0, width - columns, 0, height - rows))
    centred = padded.roll((-(rows // 2), -(columns // 2)), dims=(2, 3))
    return to_frequencies(centred).mH


def to_frequencies(z: Tensor) -> Tensor:
    """Images (batch, channels, height, width) as (frequencies, channels, batch), for a spectrum to multiply."""
    batch, channels, height, width = z.shape
    if not z.numel():  # of nothing, some builds of MKL refuse the transform
        precision = torch.promote_types(z.dtype, torch.complex32 if z.dtype == torch.half else torch.complex64)
        return z.new_zeros(height * (width // 2 + 1), channels, batch, dtype=precision) + z.sum()
    return torch.fft.rfft2(z).flatten(2).permute(2, 1, 0).contiguous()


def from_frequencies(products: Tensor, size: Size) -> Tensor:
    """The images of `to_frequencies`."""
    height, width = size
    _, channels, batch = products.shape
    if not products.numel():
        return products.real.new_zeros(batch, channels, height, width) + products.real.sum()
    frequencies = products.permute(2, 1, 0).reshape(batch, channels, height, width // 2 + 1)
    return torch.fft.irfft2(frequencies.contiguous(), s=size)


def fold(response: Tensor, size: Size) -> Tensor:
    """The spectrum of S M S^T on half of `size`, where M has the spectrum `response` and S keeps every second pixel."""
    return to_frequencies(downsample(from_frequencies(response, size)))


def downsample(z: Tensor) -> Tensor:
    """S z: every second pixel of each row and column."""
    return z[..., ::2, ::2]


def upsample(z: Tensor) -> Tensor:
    """S^T z: zeros between the pixels.

    >>> upsample(torch.ones(1, 1, 1, 2))
    tensor([[[[1., 0., 1., 0.],
              [0., 0., 0., 0.]]]])
    """
    *channels, height, width = z.shape
    apart = F.pad(z.unflatten(-1, (width, 1)).unsqueeze(-3), (0, 1, 0, 0, 0, 1))
    return apart.reshape(*channels, 2 * height, 2 * width)
