"""Cells that contract whatever their weights: their equilibrium exists, is unique, and plain iteration finds it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..implicit.modes import in_transform
from .fourier import Size, spectrum


class Bound(NamedTuple):
    """An upper bound of the norm of a linear map, as a linear function of the kernel it was found for.

    Attributes:
        kernel: for which it holds, a copy.
        direction: of the kernel's shape: <direction, kernel> is the bound, and `direction` its derivative.
    """

    kernel: Tensor
    direction: Tensor

    def holds_for(self, kernel: Tensor) -> bool:
        """Whether it was found for this very kernel, in this precision and place."""
        own = self.kernel
        return own.dtype == kernel.dtype and own.device == kernel.device and torch.equal(own, kernel)


class ContractiveConvCell(nn.Module):
    """One convolution whose norm is below one, with input injection.

        f(z, x) = relu(W z + x),    W = rho_max sigmoid(gain) V / ||V||_2

    V is a zero-padded 3x3 convolution, ||V||_2 its largest singular value on `grid`, and `gain` a number for each
    channel. Hence |f(z, x) - f(y, x)| <= rho |z - y| for rho = max rho_max sigmoid(gain), in the Euclidean norm of a
    sample: for rho < 1 the equilibrium exists and is unique, the residual falls by rho at least in each plain iteration
    (in practice faster), and I - df/dz is never singular.

    In training ||V||_2 is estimated, from below, by one power iteration a step that goes on from the last one's
    vector; the estimate is differentiated. In eval mode it is an upper bound, some per cent above: that of the
    circulant convolution on a grid two wider, of which V is a part, from its spectrum; found anew whenever the kernel
    or its precision has changed, and differentiated too.

    Args:
        channels: channels of z and x, (batch, channels, *grid).
        grid: height and width of z and x; others are refused.
        rho_max: which rho never reaches. At 1 or above nothing is certain.
        rho: with which every channel starts, below `rho_max`.

    Source: Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018; Sedghi, Gupta, Long,
    "The Singular Values of Convolutional Layers", 2019 (of circulant ones, exactly).

    >>> cell = ContractiveConvCell(4, (5, 5)).eval()
    >>> cell(torch.zeros(2, 4, 5, 5), torch.ones(2, 4, 5, 5)).shape, round(cell.lipschitz(), 3)
    (torch.Size([2, 4, 5, 5]), 0.7)
    """

    vector: Tensor

    def __init__(self, channels: int, grid: Size, *, rho_max: float = 0.9, rho: float = 0.7) -> None:
        super().__init__()
        if not 0 < rho < rho_max:
            raise ValueError(f"rho={rho} must lie between 0 and rho_max={rho_max}")
        self.grid, self.rho_max = (grid[0], grid[1]), rho_max
        self.kernel = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.gain = nn.Parameter(torch.full((channels, 1, 1, 1), math.log(rho / (rho_max - rho))))
        nn.init.kaiming_uniform_(self.kernel, a=math.sqrt(5))
        self.register_buffer("vector", torch.randn(1, channels, *self.grid))
        self._bound: Bound | None = None
        with torch.no_grad():
            for _ in range(30):
                self._estimate(self.kernel, update=True)

    def forward(self, z: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """f(z, x), of z's shape; `weight` saves making W anew."""
        weight = self.weight() if weight is None else weight
        if in_transform():
            return torch.relu(F.conv2d(z, weight, padding=1) + x)
        return F.conv2d(z, weight, padding=1).add_(x).relu_()

    def prepare(self, x: Tensor) -> Tensor:
        """W, once a solve; in training after one power iteration."""
        if tuple(x.shape[-2:]) != self.grid:
            height, width = self.grid
            raise ValueError(
                f"the cell is normalised for a grid of {height}x{width}, got {tuple(x.shape[-2:])}: make one with "
                "that grid=, the norm depends on it"
            )
        return self.weight(update=self.training and torch.is_grad_enabled() and not in_transform())

    def initial_state(self, x: Tensor) -> Tensor:
        """relu(x), which is f(0, x)."""
        return torch.relu(x.to(torch.promote_types(x.dtype, torch.float32)))

    def weight(self, update: bool = False) -> Tensor:
        """W of the parameters of this moment, (channels, channels, 3, 3); `update`: after one power iteration."""
        norm = self._estimate(self.kernel, update) if self.training else self._upper_bound(self.kernel)
        return self.rho_max * torch.sigmoid(self.gain) / norm * self.kernel

    @torch.no_grad()
    def lipschitz(self) -> float:
        """An upper bound of the Lipschitz constant of z -> f(z, x), for W as it is, rounded to its precision."""
        weight = self.weight()
        return float((_steepest(weight, self.grid) * weight.double()).sum())

    def _estimate(self, kernel: Tensor, update: bool) -> Tensor:
        """||V||_2 from below, |V v| for the unit vector v that V^T makes of the last step's."""
        with torch.no_grad():
            v = F.normalize(F.conv_transpose2d(self.vector, kernel, padding=1).flatten(), dim=0).view_as(self.vector)
        image = F.conv2d(v, kernel, padding=1)
        if update:
            self.vector.copy_(image.detach() / image.detach().norm())
        return image.norm()

    def _upper_bound(self, kernel: Tensor) -> Tensor:
        """||V||_2 from above."""
        if in_transform():
            return (_steepest(kernel, self.grid) * kernel).sum()
        if self._bound is None or not self._bound.holds_for(kernel):
            direction = _steepest(kernel.detach(), self.grid)
            self._bound = Bound(kernel.detach().clone(), direction)
        return (self._bound.direction * kernel.double()).sum().to(kernel.dtype)

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles: without the bound, which is found again."""
        return {**self.__dict__, "_bound": None}


@torch.no_grad()
def _steepest(kernel: Tensor, grid: Size) -> Tensor:
    """The derivative D of the norm of the circulant of `kernel` on a grid two wider, float64, of the kernel's shape.

    The norm itself is <D, kernel>: it is the largest singular value sigma = u^H S(w) v of the spectrum S, over the
    frequencies w, and S(w) is a sum of the kernel's taps times exp(i w t). Zero padding is a part of the circulant:
    on a border of one pixel that is held at zero, nothing passes from one side to the other.
    """
    size = grid[0] + 2, grid[1] + 2
    responses = spectrum(kernel.double(), size)  # (frequencies, out, in)
    largest = torch.linalg.eigvalsh(responses.mH @ responses)[:, -1]
    frequency = int(largest.argmax())
    u, _, vh = torch.linalg.svd(responses[frequency])
    outer = u[:, 0].conj().unsqueeze(1) * vh[0].conj()  # d sigma / d S, of the real part: (out, in)
    row, column = divmod(frequency, size[1] // 2 + 1)
    taps = torch.arange(3, dtype=torch.float64, device=kernel.device) - 1
    phase = torch.exp(2j * math.pi * (row / size[0] * taps.unsqueeze(1) + column / size[1] * taps))
    return (outer[:, :, None, None] * phase).real
