"""Convolutional cells of monDEQs, inverted exactly by FFT: a single convolution, or several tiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fourier import Size, downsample, fold, from_frequencies, spectrum, to_frequencies, upsample
from .monotone import MonotoneCell, identity_like, shifted_inverse, with_margin

Tiers = tuple[Tensor, ...]


class Spectra(NamedTuple):
    """W of a `MonotoneConv2d`, see there: tuples of spectra."""

    blocks: Tiers  # (1 - m) I - A_i^T A_i + B_i - B_i^T, of each tier
    down: Tiers  # C_i of T_i = S C_i, of each tier but the last
    up: Tiers  # A_i of each tier but the first


class MonotoneConv2d(MonotoneCell):
    """The cell with circular convolutions; with several widths, a tier for each, of half its predecessor's resolution.

    The state is a tuple of tiers z_i, (batch, widths[i], height / 2^i, width / 2^i); x (batch, widths[0], height,
    width) is injected into the first. With convolutions A_i, B_i within a tier, and T_i of stride 2 from tier i to i+1,

        (W z)_i = ((1 - m) I - A_i^T A_i - T_i^T T_i + B_i - B_i^T) z_i - 2 A_i^T T_{i-1} z_{i-1}

    so that <z, (I - W) z> = m |z|^2 + sum_i |A_i z_i + T_{i-1} z_{i-1}|^2. One width is the paper's single convolution.

    A border of 2^(tiers - 1 - i) pixels is held at zero in tier i, so that nothing passes from one side of the image
    to the other: `prox` is the projection onto z >= 0 with z = 0 there. x must have that much around the image.

    Args:
        widths: channels of the tiers.
        margin: see `MonotoneCell`.
        kernel_size: of all convolutions, odd.
        border: hold the border at zero; False: the image is a torus.

    Source: Winston, Kolter, "Monotone operator equilibrium networks", 2020, section 3.3.

    >>> cell, x = MonotoneConv2d([8, 12]), torch.randn(2, 8, 12, 12)
    >>> [tuple(z.shape) for z in cell(cell.initial_state(x), x)]
    [(2, 8, 12, 12), (2, 12, 6, 6)]
    """

    def __init__(self, widths: Sequence[int], margin: float = 1.0, kernel_size: int = 3, border: bool = True) -> None:
        super().__init__(margin)
        if not widths or kernel_size % 2 == 0:
            raise ValueError(f"widths={list(widths)} must name a tier, and kernel_size={kernel_size} be odd")
        self.widths = tuple(widths)
        self.borders = tuple(border * 2 ** (len(widths) - 1 - i) for i in range(len(widths)))
        self.symmetric = nn.ModuleList(UnitKernel(c, c, kernel_size) for c in widths)  # A
        self.skew = nn.ModuleList(UnitKernel(c, c, kernel_size) for c in widths)  # B
        self.down = nn.ModuleList(UnitKernel(c, after, kernel_size) for c, after in pairwise(widths))  # C

    def sizes(self, x: Tensor) -> list[Size]:
        """Height and width of each tier for an injection x; a ValueError where they cannot be halved so often."""
        height, width = x.shape[2:]
        halvings = len(self.widths) - 1
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(f"{height}x{width} pixels cannot be halved {halvings} times: pad them to a multiple")
        return [(height >> i, width >> i) for i in range(halvings + 1)]

    def initial_state(self, x: Tensor) -> Tiers:
        """Zeros."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        shapes = zip(self.widths, self.sizes(x), strict=True)
        return tuple(x.new_zeros(len(x), channels, *size, dtype=dtype) for channels, size in shapes)

    def weight(self, x: Tensor) -> Spectra:
        """The spectra of W, on the sizes of x's tiers."""

        def spectra(kernels: nn.ModuleList) -> Tiers:
            return tuple(spectrum(kernel(), size) for kernel, size in zip(kernels, self.sizes(x), strict=False))

        a, b = spectra(self.symmetric), spectra(self.skew)
        blocks = tuple(with_margin(self.margin, a_i, b_i) for a_i, b_i in zip(a, b, strict=True))
        return Spectra(blocks, spectra(self.down), a[1:])

    def multiply(self, weight: Spectra, z: Tiers) -> Tiers:
        """As `MonotoneCell.multiply`."""
        sizes = [_size(z_i) for z_i in z]
        frequencies = [to_frequencies(z_i) for z_i in z]
        products = [block @ f for block, f in zip(weight.blocks, frequencies, strict=True)]
        for i, (down, up) in enumerate(zip(weight.down, weight.up, strict=True)):
            below = downsample(from_frequencies(down @ frequencies[i], sizes[i]))  # T_i z_i
            products[i] = products[i] - down.mH @ to_frequencies(upsample(below))
            products[i + 1] = products[i + 1] - 2 * (up.mH @ to_frequencies(below))
        return tuple(from_frequencies(p, size) for p, size in zip(products, sizes, strict=True))

    def inverse(self, alpha: float, x: Tensor, weight: Spectra) -> Callable[[Tiers], Tiers]:
        """As `MonotoneCell.inverse`: tier after tier, as W is block triangular, each block by the Woodbury identity

        (D + alpha T^T T)^-1 = D^-1 - alpha D^-1 T^T H T D^-1,    H = (I + alpha T D^-1 T^T)^-1

        where D (of A and B) is inverted at each frequency, and so is H, which is a convolution on the coarser tier.
        """
        sizes = self.sizes(x)
        inverses = [shifted_inverse(identity_like(block) - block, alpha) for block in weight.blocks]  # D^-1
        corrections = [  # H
            shifted_inverse(fold(down @ inverse @ down.mH, size), alpha)
            for down, inverse, size in zip(weight.down, inverses, sizes, strict=False)
        ]

        def solve(v: Tiers) -> Tiers:
            solved = []
            below: Tensor | None = None  # T_{i-1} z_{i-1}
            for i, (v_i, inverse, size) in enumerate(zip(v, inverses, sizes, strict=True)):
                right = to_frequencies(v_i)
                if below is not None:
                    right = right - 2 * alpha * (weight.up[i - 1].mH @ below)
                z = inverse @ right
                if i < len(corrections):
                    down, coarse = weight.down[i], sizes[i + 1]
                    # T (D + alpha T^T T)^-1 = H T D^-1
                    below = corrections[i] @ to_frequencies(downsample(from_frequencies(down @ z, size)))
                    back = to_frequencies(upsample(from_frequencies(below, coarse)))
                    z = z - alpha * (inverse @ (down.mH @ back))
                solved.append(from_frequencies(z, size))
            return tuple(solved)

        return solve

    def inject(self, v: Tiers, x: Tensor) -> Tiers:
        """v + x in the first tier."""
        return (v[0] + x, *v[1:])

    def prox(self, v: Tiers, alpha: float = 1.0) -> Tiers:
        """The projection onto z >= 0, z = 0 on the border."""
        return tuple(
            v_i.relu() * _frame(v_i, border) if border else v_i.relu()
            for v_i, border in zip(v, self.borders, strict=True)
        )


class UnitKernel(nn.Module):
    """A convolution's kernel (out, in, k, k), normalised to Frobenius norm one, with a learned scale."""

    def __init__(self, before: int, after: int, size: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(after, before, size, size))
        self.scale = nn.Parameter(torch.ones(()))
        bound = (before * size**2) ** -0.5
        nn.init.uniform_(self.kernel, -bound, bound)

    def forward(self) -> Tensor:
        """The kernel."""
        return self.scale / self.kernel.norm() * self.kernel


def _frame(z: Tensor, border: int) -> Tensor:
    """(height, width), zero on the border and one inside."""
    height, width = _size(z)
    return F.pad(z.new_ones(height - 2 * border, width - 2 * border), 4 * [border])


def _size(z: Tensor) -> Size:
    return z.shape[-2], z.shape[-1]
