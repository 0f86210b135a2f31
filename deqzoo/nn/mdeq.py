"""The cell of the multiscale deep equilibrium model: several resolutions, one joint fixed point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

State = tuple[Tensor, ...]


class MDEQBlock(nn.Module):
    """Residual block of one resolution.

        block(z, x) = norm(relu(z + norm(x + dropout(conv(relu(norm(conv(z))))))))

    with two 3x3 convolutions without bias, width -> round(expansion width) -> width, and group normalisation.

    Args:
        width: channels of z and x, (B, width, H, W).
        expansion, groups, dropout: see `MDEQCell`.
    """

    def __init__(self, width: int, expansion: float, groups: int, dropout: float) -> None:
        super().__init__()
        hidden = round(expansion * width)
        self.conv1 = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, hidden)
        self.conv2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False)
        self.dropout = nn.Dropout2d(dropout)
        self.norm2 = nn.GroupNorm(groups, width)
        self.norm3 = nn.GroupNorm(groups, width)

    def forward(self, z: Tensor, x: Tensor | None = None) -> Tensor:
        """The block's value, of z's shape; x None: nothing is injected."""
        y = self.dropout(self.conv2(self.norm1(self.conv1(z)).relu_()))
        y = self.norm2(y if x is None else y + x)
        return self.norm3((y + z).relu_())


class MDEQCell(nn.Module):
    r"""One step of the joint iteration: a residual block in each resolution, then fusion across resolutions.

    The state z is a tuple of tensors (B, width_i, H_i, W_i), each of half the resolution of the one before (rounded
    up). x, of the shape of the first, is injected there alone. With y_i = block_i(z_i, x if i = 0),

        f(z, x)_i = norm(conv1x1(relu(y_i + sum_{j<i} down_ji(y_j) + sum_{j>i} up_ji(y_j))))

    down: i - j strided 3x3 convolutions, each with a norm, relu between them; up: a 1x1 convolution, a norm, nearest
    neighbours. The last norm has half the groups. Convolutions have no bias and start at N(0, 0.01).

    Args:
        widths: channels of the resolutions, the highest first.
        blocks: residual blocks in each resolution; the first one gets x.
        expansion: inner width of a block over its width.
        groups: groups of the normalisations; even, and must divide all widths.
        dropout: probability that a channel within a block is dropped; one mask for all steps of a solve (see `DEQ`).
        weight_norm: each filter is a direction times a length, by `torch.nn.utils.parametrizations.weight_norm`.

    Source: Bai, Koltun, Kolter, "Multiscale Deep Equilibrium Models", 2020.

    >>> cell, x = MDEQCell([8, 16]), torch.ones(2, 8, 6, 6)
    >>> [tuple(t.shape) for t in cell(cell.initial_state(x), x)]
    [(2, 8, 6, 6), (2, 16, 3, 3)]
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        blocks: int = 1,
        expansion: float = 5.0,
        groups: int = 8,
        dropout: float = 0.0,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        _check(widths, blocks, expansion, groups)
        self.widths = tuple(widths)
        self.blocks: Any = nn.ModuleList(
            nn.ModuleList(MDEQBlock(width, expansion, groups, dropout) for _ in range(blocks)) for width in widths
        )
        count = range(len(widths))
        self.paths: Any = nn.ModuleList(nn.ModuleList(_path(self.widths, j, i, groups) for j in count) for i in count)
        self.outputs = nn.ModuleList(
            nn.Sequential(nn.ReLU(inplace=True), _conv(width, width, 1), nn.GroupNorm(groups // 2, width))
            for width in widths
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if weight_norm:
                    parametrizations.weight_norm(module)

    def initial_state(self, x: Tensor) -> State:
        """Zeros in at least float32, in x's memory layout."""
        last = x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        dtype = torch.promote_types(x.dtype, torch.float32)
        batch, _, height, width = x.shape
        state = []
        for channels in self.widths:
            shape = (batch, channels, height, width)
            state.append(torch.empty(shape, dtype=dtype, device=x.device, memory_format=layout).zero_())
            height, width = (height + 1) // 2, (width + 1) // 2
        return tuple(state)

    def forward(self, z: State, x: Tensor) -> State:
        """f(z, x), of z's shapes."""
        inner = []
        for i, (y, blocks) in enumerate(zip(z, self.blocks, strict=True)):
            for j, block in enumerate(blocks):
                y = block(y, x if i == j == 0 else None)
            inner.append(y)
        return tuple(output(self._fused(inner, i)) for i, output in enumerate(self.outputs))

    def _fused(self, inner: Sequence[Tensor], target: int) -> Tensor:
        total = inner[target].clone() if len(inner) == 1 else inner[target]  # what follows works in place
        for source, path in enumerate(self.paths[target]):
            if source != target:
                y = path(inner[source])
                total = total + (y if source < target else F.interpolate(y, size=total.shape[2:]))
        return total


def _path(widths: Sequence[int], source: int, target: int, groups: int) -> nn.Module:
    """What one resolution tells another, without the interpolation."""
    if source >= target:
        if source == target:
            return nn.Identity()
        return nn.Sequential(_conv(widths[source], widths[target], 1), nn.GroupNorm(groups, widths[target]))
    layers: list[nn.Module] = []
    for level in range(source + 1, target + 1):
        width = widths[target if level == target else source]
        layers += [_conv(widths[source], width, 3, stride=2), nn.GroupNorm(groups, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _conv(before: int, after: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)


def _check(widths: Sequence[int], blocks: int, expansion: float, groups: int) -> None:
    """The message begins with the option to be changed."""
    if not widths:
        raise ValueError("widths needs at least one resolution")
    if blocks < 1:
        raise ValueError(f"blocks={blocks}: it must be at least 1")
    all_widths = [*widths, *(round(expansion * width) for width in widths)]
    if groups < 2 or groups % 2 or any(width % groups for width in all_widths):
        raise ValueError(f"groups={groups} must be even and divide the widths {', '.join(map(str, all_widths))}")
