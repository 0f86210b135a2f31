"""A U-Net as dynamics of a flow of images: residual blocks at several resolutions, which time scales and shifts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8  # of the group norms
FREQUENCIES, FASTEST = 16, 200.0  # of the sines and cosines of time, from 1 to this


class UNet(nn.Module):
    """Dynamics f(t, y) of images y (B, C, H, W), t a 0-dim tensor or (B,).

    y is squeezed by 2x2 pixels into channels; at each resolution come `blocks` residual blocks on the way down and as
    many on the way up, which sees the features of the way down too. The last layer starts at zero, and so does f: a
    flow by it starts as the identity.

    Args:
        size: (C, H, W); H and W must be divisible by 2 once per width.
        widths: channels inside at each resolution, H/2, H/4, ...; multiples of 8.
        blocks: see above.

    Source: Ronneberger, Fischer, Brox, "U-Net", 2015; Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models",
    2020 (its blocks).

    >>> net = UNet((1, 8, 8), widths=(8, 16), blocks=1)
    >>> net(torch.tensor(0.5), torch.randn(2, 1, 8, 8)).abs().max().item()
    0.0
    """

    frequencies: Tensor

    def __init__(self, size: tuple[int, int, int], widths: Sequence[int] = (48, 96), blocks: int = 2) -> None:
        super().__init__()
        if not widths or blocks < 1 or any(width < 1 or width % GROUPS for width in widths):
            raise ValueError(
                f"widths={list(widths)}, blocks={blocks}: widths must be multiples of {GROUPS}, and blocks at least 1"
            )
        channels, height, width = size
        if height % 2 ** len(widths) or width % 2 ** len(widths):
            raise ValueError(f"images of {height}x{width} cannot be halved {len(widths)} times, once per width")
        if height * width * widths[-1] == GROUPS * 4 ** len(widths):  # a norm makes zero of it
            raise ValueError(f"images of {height}x{width} end as one value per group norm; use fewer or larger widths")
        self.blocks = blocks
        first, time = widths[0], 4 * widths[0]
        self.register_buffer("frequencies", torch.logspace(0, math.log10(FASTEST), FREQUENCIES), persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.first = nn.Conv2d(4 * channels, first, 3, padding=1)
        self.down = nn.ModuleList(self._blocks(width, width, time) for width in widths)
        self.halving = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.doubling = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(self._blocks(2 * width, width, time) for width in widths[:-1])
        self.norm = nn.GroupNorm(GROUPS, first)
        self.last = nn.Conv2d(first, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def _blocks(self, channels: int, width: int, time: int) -> nn.ModuleList:
        return nn.ModuleList(TimedBlock(width if index else channels, width, time) for index in range(self.blocks))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """dy/dt, of y's shape."""
        phases = t.to(y).reshape(-1, 1) * self.frequencies.to(y)
        time = self.time(torch.cat([phases.sin(), phases.cos()], 1))
        x = self.first(F.pixel_unshuffle(y, 2))
        kept = []
        for blocks, halve in zip(self.down, [*self.halving, None], strict=True):
            x = _through(blocks, x, time)
            if halve is not None:
                kept.append(x)
                x = halve(x)
        for blocks, double in zip(reversed(self.up), reversed(self.doubling), strict=True):
            x = _through(blocks, torch.cat([kept.pop(), F.pixel_shuffle(double(x), 2)], 1), time)
        return F.pixel_shuffle(self.last(F.silu(self.norm(x))), 2)


class TimedBlock(nn.Module):
    """x + conv(silu((1 + scale) norm(conv(silu(norm(x)))) + shift)), with scale and shift of the features of time.

    Args:
        channels: of x, (B, channels, H, W).
        width: of the result; where it differs, x passes a 1x1 convolution.
        time: features of time, (B, time) or (1, time).
    """

    def __init__(self, channels: int, width: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, channels), nn.GroupNorm(GROUPS, width)
        self.conv1, self.conv2 = (nn.Conv2d(size, width, 3, padding=1) for size in (channels, width))
        self.time = nn.Linear(time, 2 * width)
        self.skip = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, width, H, W)."""
        scale, shift = self.time(time)[..., None, None].chunk(2, 1)
        y = self.norm2(self.conv1(F.silu(self.norm1(x))))
        return self.skip(x) + self.conv2(F.silu(torch.addcmul(shift, y, 1 + scale)))


def _through(blocks: nn.Module, x: Tensor, time: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, time)
    return x
