"""A cell with causal attention that contracts whatever its weights, as the input alone says where it attends."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..implicit.modes import in_transform
from .contractive import DenseContractiveCell


class AttentionInput(NamedTuple):
    """What a `ContractiveAttentionCell` is given of a batch of sequences.

    Attributes:
        bias: (batch, time, width).
        attention: (batch, time, time, heads), [., t, s, h] the weight that position t gives to s; the weights of a
            position and a head are not negative, and their sum is at most one.
    """

    bias: Tensor
    attention: Tensor


class ContractiveAttentionCell(DenseContractiveCell):
    """Mixes a sequence of states by attention whose weights A are given, and contracts.

        f(z, (b, A))_t = relu(sqrt(m_0) W_0 z_t + sum_h sqrt(m_h) W_h sum_s A_h[t, s] z_s + b_t),    m = softmax(mix)

    with the matrices [W_0 .. W_H] = W = rho_max sigmoid(gain) V / ||V||_2 side by side, as of a `ContractiveCell`.

    It contracts by ||W||_2 < rho_max in the norm ||z|| = max_t |z_t|_2: relu never takes two vectors further apart, and
    W is applied to the vector of all sqrt(m_h) (A_h z)_t, with A_0 z = z. No (A_h z)_t is longer than ||z||, as it is
    an average, or less; hence that vector is no longer than (sum_h m_h)^(1/2) ||z|| = ||z||. For rho_max < 1 the
    equilibrium exists, is unique, and each plain iteration brings it nearer by that factor at least, whatever A. Where
    m_h is |v_h|^2 for the blocks v_h of W's largest right singular vector, some A reaches the bound.

    Args:
        width: channels of the state.
        heads: H of A.
        rho_max, rho: see `ContractiveCell`.

    Source: that attention by the state itself, of dot products, has no Lipschitz constant: Kim, Papamakarios, Mnih,
        "The Lipschitz Constant of Self-Attention", 2021.

    >>> cell = ContractiveAttentionCell(4, heads=2).eval()
    >>> x = AttentionInput(torch.ones(3, 5, 4), torch.full((3, 5, 5, 2), 0.2))
    >>> cell(torch.zeros(3, 5, 4), x).shape, round(cell.lipschitz(), 3)
    (torch.Size([3, 5, 4]), 0.7)
    """

    def __init__(self, width: int, heads: int, *, rho_max: float = 0.9, rho: float = 0.7) -> None:
        if width < 1 or heads < 1:
            raise ValueError(f"width={width} and heads={heads} must be positive")
        super().__init__((width, (heads + 1) * width), (width,), rho_max=rho_max, rho=rho)
        self.heads = heads
        self.mix = nn.Parameter(torch.zeros(heads + 1))

    def forward(self, z: Tensor, x: Any, weight: Tensor | None = None) -> Tensor:
        """f(z, x), (batch, time, width), for x an `AttentionInput`; `weight` saves making it anew."""
        bias, attention = x
        width = z.shape[-1]
        products = F.linear(z, self._blocks() if weight is None else weight)
        # One product for all heads: the sum over s and h of A_h[t, s] (W_h z_s).
        attended = attention.flatten(2) @ products[..., width:].unflatten(-1, (self.heads, width)).flatten(1, 2)
        return torch.relu(products[..., :width] + attended + bias)

    def prepare(self, x: Any) -> Tensor:
        """The matrices sqrt(m_h) W_h below one another, once per solve; in training after one power iteration."""
        time = x[0].shape[1]
        if x[0].shape[2:] != self.state or x[1].shape[1:] != (time, time, self.heads):
            raise ValueError(
                f"the cell takes bias (batch, time, {self.state[0]}) and attention (batch, time, time, {self.heads}); "
                f"it got {tuple(x[0].shape)} and {tuple(x[1].shape)}"
            )
        return self._blocks(update=self.training and torch.is_grad_enabled() and not in_transform())

    def initial_state(self, x: Any) -> Tensor:
        """relu(b), which is f(0, x)."""
        return torch.relu(x[0].to(torch.promote_types(x[0].dtype, torch.float32)))

    @torch.no_grad()
    def lipschitz(self) -> float:
        """As `ContractiveCell.lipschitz`, in the norm max_t |z_t|_2."""
        blocks, device = self._blocks(), self.kernel.device.type
        if torch.is_autocast_enabled(device):
            blocks = blocks.to(torch.get_autocast_dtype(device))
        shares = self.mix.double().softmax(0).sqrt()
        weight = (blocks.double().unflatten(0, (self.heads + 1, -1)) / shares[:, None, None]).transpose(0, 1)
        return float(torch.linalg.matrix_norm(weight.flatten(1), 2) * shares.norm())

    def _blocks(self, update: bool = False) -> Tensor:
        weight = self.weight(update).unflatten(1, (self.heads + 1, -1)) * self.mix.softmax(0).sqrt().unsqueeze(1)
        return weight.transpose(0, 1).flatten(0, 1)


class AttentionInjection(nn.Module):
    """From embedded tokens to the `AttentionInput` of a cell: attention by what stands near each position.

        x_t = norm(sum_{j < context} C_j e_{t-j}),    b = x,
        A_h[t, .] = softmax over s <= t of (query_h(x_t) . key_h(x_s) / sqrt(size) + position_h[t - s])

    Args:
        features: channels of e, (batch, time, features).
        width: of the cell.
        heads: of the attention. At first head h looks about 2^h positions back: the bias is -|t - s - 1| / 2^h.
        window: the longest time.
        size: of queries and keys.
        context: tokens seen by x_t, itself and those before.

    Source: the bias: Press, Smith, Lewis, "Train Short, Test Long" (ALiBi), 2022, where it stays as it starts.

    >>> x = AttentionInjection(3, 4, heads=2, window=6)(torch.randn(1, 5, 3))
    >>> x.bias.shape, x.attention.shape, bool((x.attention.sum(2) - 1).abs().max() < 1e-6)
    (torch.Size([1, 5, 4]), torch.Size([1, 5, 5, 2]), True)
    """

    lag: Tensor

    def __init__(self, features: int, width: int, heads: int, *, window: int, size: int = 16, context: int = 4) -> None:
        super().__init__()
        if context < 1 or size < 1:
            raise ValueError(f"context={context} and size={size} must be positive")
        self.heads, self.context = heads, context
        self.local = nn.Linear(context * features, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.query_key = nn.Linear(width, 2 * heads * size, bias=False)
        places = torch.arange(window)
        self.register_buffer("lag", places.unsqueeze(1) - places, persistent=False)
        self.position = nn.Parameter(-(places - 1).abs() / 2.0 ** torch.arange(heads).unsqueeze(1))

    def forward(self, e: Tensor) -> AttentionInput:
        """Bias and attention; the latter in the precision of the products."""
        time, window = e.shape[1], self.position.shape[1]
        if time > window:
            raise ValueError(f"a sequence of {time} positions is longer than the window of {window}")
        near = F.pad(e, (0, 0, self.context - 1, 0)).unfold(1, self.context, 1).flatten(2)
        x = self.norm(self.local(near))
        q, k = self.query_key(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (batch, heads, time, size)
        lag = self.lag[:time, :time]
        scores = (q @ k.mT) * q.shape[-1] ** -0.5 + self.position[:, lag.clamp(min=0)]
        attention = scores.masked_fill(lag < 0, -torch.inf).softmax(-1).to(q.dtype)
        return AttentionInput(x, attention.permute(0, 2, 3, 1).contiguous())
