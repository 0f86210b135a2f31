"""ConcatSquash networks, dynamics of continuous flows: each layer is gated and shifted by functions of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = nn.Linear | nn.Conv2d
Pair = tuple[Tensor, Tensor | None]  # values (B, ...), and their derivatives along K directions (K, B or 1, ...)


def _tanh(x: Tensor, v: Tensor | None) -> Pair:
    y = x.tanh()
    return y, None if v is None else torch.ops.aten.tanh_backward(v, y)  # v (1 - y^2) in one pass


def _softplus(x: Tensor, v: Tensor | None) -> Pair:
    return F.softplus(x), None if v is None else torch.ops.aten.softplus_backward(v, x, 1, 20)  # v sigmoid(x)


def _silu(x: Tensor, v: Tensor | None) -> Pair:
    s = x.sigmoid()
    y = x * s
    return y, None if v is None else v * torch.addcmul(s, y, 1 - s)


# Activations that are smooth, as a density asks of its dynamics: the value at x, and its derivatives along v.
SMOOTH: dict[str, Callable[[Tensor, Tensor | None], Pair]] = {"silu": _silu, "softplus": _softplus, "tanh": _tanh}


class ConcatSquashNet(nn.Module):
    r"""Dynamics f(t, y, context) of layers that time and context gate and shift, with an activation between them:

        x -> (L x + b) * sigmoid(G c + g) + S c,    c = (t, context)

    It brings its own forward-mode derivative, `with_jvp`, from which `deqzoo.nn.divergence` has what a density needs.

    Args:
        layers: the maps L x + b, `nn.Linear`, or `nn.Conv2d` of stride 1; the last has the number of y's features.
        activation: silu, softplus or tanh.
        context: features of the context; 0: there is none.

    See `squash_mlp` and `squash_conv_net`.

    Source: Grathwohl et al., "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models", 2019,
    and its code.
    """

    def __init__(self, layers: Sequence[Layer], activation: str = "tanh", context: int = 0) -> None:
        super().__init__()
        if activation not in SMOOTH:
            raise ValueError(f"activation={activation} is unknown; valid are {', '.join(sorted(SMOOTH))}")
        self.activation, self.context = activation, context
        self.layers = nn.ModuleList(layers)
        self._widths = [layer.weight.shape[0] for layer in layers]
        self.gate = nn.Linear(1 + context, sum(self._widths))  # of all layers at once
        self.shift = nn.Linear(1 + context, sum(self._widths), bias=False)

    def forward(self, t: Tensor, y: Tensor, context: Tensor | None = None) -> Tensor:
        """dy/dt of y's shape, (B, ...); t is a 0-dim tensor or (B,), context (B, context)."""
        return self.with_jvp(t, y, None, context)[0]

    def with_jvp(self, t: Tensor, y: Tensor, v: Tensor | None, context: Tensor | None = None) -> Pair:
        """dy/dt, and its derivatives along v, (K, B, ...) or (K, 1, ...) where it is the same for all: (K, B, ...)."""
        activate = SMOOTH[self.activation]
        c = self._conditions(t.to(y), context)
        # As `self.gate(c)` and `self.shift(c)`; a solve calls this so often that the calls of modules count.
        gates = F.linear(c, self.gate.weight, self.gate.bias).sigmoid().split(self._widths, -1)
        shifts = F.linear(c, self.shift.weight).split(self._widths, -1)
        for index, (layer, gate, shift) in enumerate(zip(self.layers, gates, shifts, strict=True)):
            if index:
                y, v = activate(y, v)
            y, v = _squashed(layer, gate, shift, y, v)  # type: ignore[arg-type]
        return y, None if v is None else v.expand(len(v), *y.shape)

    def _conditions(self, t: Tensor, context: Tensor | None) -> Tensor:
        """c, (B, 1 + context), or (1,) where all have the same."""
        if (0 if context is None else context.shape[-1]) != self.context:
            shape = None if context is None else tuple(context.shape)
            raise ValueError(f"the dynamics were built for {self.context} features of context, got the shape {shape}")
        t = t.unsqueeze(-1)
        return t if context is None else torch.cat([t.expand(len(context), 1), context.to(t)], 1)


def _squashed(layer: Layer, gate: Tensor, shift: Tensor, x: Tensor, v: Tensor | None) -> Pair:
    """A layer of `ConcatSquashNet` at x, and its derivatives along v."""
    weight, bias = layer.weight, layer.bias
    assert bias is not None
    if gate.dim() == 1:  # the same for all: it scales the weights, of which there are fewer than values
        weight = weight * gate.view(-1, *(1,) * (weight.dim() - 1))
        y = _applied(layer, x, weight, torch.addcmul(shift, gate, bias))
        return y, None if v is None else _applied(layer, v, weight, None)
    gate, shift = (part.view(*part.shape, *(1,) * (x.dim() - 2)) for part in (gate, shift))
    y = torch.addcmul(shift, _applied(layer, x, weight, bias), gate)
    return y, None if v is None else _applied(layer, v, weight, None) * gate


def _applied(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    if x.dim() == 4:
        return F.conv2d(x, weight, bias, padding=layer.padding)
    return F.conv2d(x.flatten(0, 1), weight, bias, padding=layer.padding).unflatten(0, x.shape[:2])


def squash_mlp(
    features: int,
    hidden: Sequence[int] = (64, 64, 64),
    activation: str = "tanh",
    context: int = 0,
    input_scale: float = 1.0,
) -> ConcatSquashNet:
    """A perceptron on y (B, features) with hidden layers of these widths.

    `input_scale` multiplies the first layer's initial weights and biases: from larger ones, what varies over short
    distances, as densities in the plane do, is learned in far fewer steps.

    >>> squash_mlp(2, (16,))(torch.tensor(0.5), torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    widths = [features, *hidden, features]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    with torch.no_grad():
        for parameter in layers[0].parameters():
            parameter.mul_(input_scale)
    return ConcatSquashNet(layers, activation, context)


def squash_conv_net(
    channels: int, hidden: Sequence[int] = (64, 64, 64), activation: str = "softplus", context: int = 0
) -> ConcatSquashNet:
    """3x3 convolutions on y (B, channels, H, W) with `hidden` channels between.

    >>> squash_conv_net(1, (8,))(torch.tensor(0.5), torch.zeros(3, 1, 4, 4)).shape
    torch.Size([3, 1, 4, 4])
    """
    widths = [channels, *hidden, channels]
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
    return ConcatSquashNet(layers, activation, context)
