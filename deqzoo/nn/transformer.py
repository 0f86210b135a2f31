"""A causal transformer block as a cell of equilibrium layers."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..implicit.modes import in_transform


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which a position sees those before it, not itself, with rotary positions.

    A zero key and value stand before the first position, so that no position is forced to look at another: one that
    attended to itself alone (as the first must, else) would feed its state back in full, and its equilibrium could
    become unstable. Only differences of positions matter.
    Under `torch.func` and forward mode it takes torch's unfused kernel, which has all derivatives. For a double
    backward ask for that yourself: ``with torch.nn.attention.sdpa_kernel(SDPBackend.MATH): ...``.

    Args:
        width: channels of its input, (batch, time, width).
        heads: must divide the width into even parts.

    Source: Vaswani et al., "Attention Is All You Need", 2017; Su et al., "RoFormer", 2021 (rotary positions).

    >>> CausalSelfAttention(8, heads=2)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % (2 * heads):
            raise ValueError(f"heads={heads} must divide width={width} into even parts")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        for linear in (self.query, self.key_value):
            nn.init.normal_(linear.weight, std=width**-0.5)

    def forward(self, z: Tensor) -> Tensor:
        """Of z's shape, (batch, time, width)."""
        before = F.pad(z[:, :-1], (0, 0, 1, 0))  # at each position, the state of the one before
        q = self._by_head(self.query(z))
        k, v = self._by_head(self.key_value(before)).chunk(2, dim=-1)
        turn = rotation(z.shape[1], q.shape[-1], z.device, torch.promote_types(z.dtype, torch.float32))
        q, k = rotate(q, turn), rotate(k, turn)
        with sdpa_kernel(SDPBackend.MATH) if in_transform() else contextlib.nullcontext():
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))

    def _by_head(self, y: Tensor) -> Tensor:
        return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, time, size)


def rotation(time: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """exp(i t w_j) for t < time and the frequencies w_j = 10000^(-2j / size), (time, size / 2), complex."""
    frequency = 10_000.0 ** -(torch.arange(0, size, 2, device=device, dtype=dtype) / size)
    angle = torch.outer(torch.arange(time, device=device, dtype=dtype), frequency)
    return torch.polar(torch.ones_like(angle), angle)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Neighbouring pairs of channels of x (..., time, size), as complex numbers, times ``turn``."""
    pairs = torch.view_as_complex(x.to(turn.real.dtype).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


class TransformerCell(nn.Module):
    """A causal transformer block with input injection, bounded by its last normalisation.

        h = norm(x + dropout(attention(z)))
        f(z, x) = norm(h + dropout(down(relu(up(h)))))

    with layer normalisation. Both skip connections start from the input, so that the state acts by way of the attention
    alone, an average: this keeps the Jacobian small. Position t of f depends on positions up to t alone, and hence so
    does the fixed point. ``cell(z, z)`` is the usual transformer layer.

    Args:
        width: channels of z and x, (batch, time, width).
        heads: of the attention.
        expansion: width of the hidden layer over `width`.
        dropout: probability that a channel of a branch is dropped, for all positions of a sequence together; one
            mask for all steps of a solve (see `DEQ`).

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", 2019 (the DEQ transformer).

    >>> TransformerCell(8, heads=2)(torch.zeros(3, 5, 8), torch.ones(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, heads: int, expansion: float = 4.0, dropout: float = 0.0) -> None:
        super().__init__()
        hidden = round(expansion * width)
        if hidden < 1:
            raise ValueError(f"expansion={expansion} leaves no hidden unit")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} must lie in [0, 1)")
        self.attention = CausalSelfAttention(width, heads)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = dropout
        # Branches start small beside the skip connections: then f contracts at first.
        nn.init.normal_(self.attention.out.weight, std=0.5 * width**-0.5)
        nn.init.normal_(self.up.weight, std=width**-0.5)
        nn.init.normal_(self.down.weight, std=0.5 * hidden**-0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """f(z, x), of z's shape."""
        h = self.norm1(x + self._drop(self.attention(z)))
        return self.norm2(h + self._drop(self.down(torch.relu(self.up(h)))))

    def initial_state(self, x: Tensor) -> Tensor:
        """x: from zeros the first step would see nothing but x either, as attention to zeros is zero."""
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def _drop(self, branch: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return branch
        return branch * F.dropout(torch.ones_like(branch[:, :1]), self.dropout)
