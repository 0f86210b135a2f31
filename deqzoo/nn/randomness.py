"""The random draws of a layer: made in the first evaluation of a solve, and handed over to all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..implicit.modes import compiled_runs_eagerly, eager, is_vmapped, unwrap

_MASKS = F.dropout, F.dropout1d, F.dropout2d, F.dropout3d  # each multiplies its argument by what it draws
_MADE = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like, torch.randint_like)
_FILLED = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.bernoulli_, torch.Tensor.exponential_)
# What a draw of these means depends on their arguments, or the draw cannot be had apart from the result.
_NOT_HANDED = (
    torch.bernoulli,
    torch.multinomial,
    torch.normal,
    torch.poisson,
    torch.dropout,
    torch.native_dropout,
    torch.feature_dropout,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    F.gumbel_softmax,
)


def same_randomness(f: Callable[..., Any], function: Any, device: torch.device) -> Callable[..., Any]:
    """`f`, which calls `function`, with the same random draws in each call; outside, as after a single call.

    The first call keeps what it draws: masks of dropout, and `torch.rand` and its kin. The others are given the same
    tensors, and touch no generator. Where the first call draws nothing, the others are plain calls. Where it draws by
    other means (dropout within attention or recurrent layers), the others set the generators back. A function must draw
    in each call or in none. In a graph of `torch.compile`, where there are no generators to set, such layers stay out
    of the graph, and such functions are an error.
    """
    if torch.compiler.is_compiling() and not draws_inside(function):
        return handed_over(f)
    return _same_randomness(f, device)


class _Draws(TorchFunctionMode):
    """Inside, what is drawn is kept, in order, or is what has been kept.

    Args:
        kept: so far.
        again: hand over what is kept.
        generators: of which a draw that was not seen here is told; None: such a draw is an error.
    """

    def __init__(self, kept: list[Tensor], again: bool, generators: Generators | None = None) -> None:
        super().__init__()
        self.kept, self.again, self.generators, self.next = kept, again, generators, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MASKS:
            return self._masked(func, *args, **kwargs)
        if func in _MADE:
            return self._drawn(lambda: func(*args, **kwargs)).clone()
        if func in _FILLED and not any(isinstance(value, Tensor) for value in (*args[1:], *kwargs.values())):
            return args[0].copy_(self._drawn(lambda: func(args[0].detach(), *args[1:], **kwargs).clone()))
        if self.generators is None and _is_not_handed(func, args, kwargs):
            raise RuntimeError(
                f"what {func.__name__} draws cannot be handed over within a graph of torch.compile, so that each step "
                "of a solve would draw anew; leave the layer uncompiled, or draw by torch.rand or nn.functional.dropout"
            )
        return func(*args, **kwargs)

    def _masked(self, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return func(input, p, training, inplace)
        mask = self._drawn(lambda: func(torch.ones_like(input).detach(), p, True))
        if mask.shape != input.shape:
            raise RuntimeError(
                f"within a solve {func.__name__} is to give the mask of its first evaluation, of shape "
                f"{tuple(mask.shape)}, to a tensor of shape {tuple(input.shape)}"
            )
        return input.mul_(mask) if inplace else input * mask

    def _drawn(self, draw: Callable[[], Tensor]) -> Tensor:
        """What was drawn in this place, or is drawn now."""
        if self.again:
            if self.next == len(self.kept):
                raise RuntimeError("an evaluation of f draws more random numbers than the first one of the solve did")
            self.next += 1
            return self.kept[self.next - 1]
        if self.generators is not None:
            self.generators.note()
        value = draw()
        if self.generators is not None:
            if is_vmapped(value):  # drawn within a vmap of f's own, which ends before the solve
                self.generators.unseen = True
                return value
            self.generators.expect()
            value = unwrap(value)
        self.kept.append(value)
        return value


def handed_over(f: Callable[..., Any], kept: list[Tensor] | None = None) -> Callable[..., Any]:
    """`f`, whose calls are given what is `kept`; None: what the first call draws."""
    again = kept is not None
    kept = [] if kept is None else kept

    def call(*args: Any) -> Any:
        nonlocal again
        with _Draws(kept, again):
            value = f(*args)
        if not again:  # a backward may change nothing outside it in a graph
            again = True
        return value

    return call


@eager
def _same_randomness(f: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    generators = Generators(device)
    start = generators.state
    kept: list[Tensor] = []
    call_again: Callable[..., Any] | None = None  # not known before the first call

    @eager  # by another generator a graph would draw other numbers than the first call did
    def draw_again(*args: Any) -> Any:
        outside = generators.read()
        generators.set(start)
        try:
            return f(*args)
        finally:
            generators.set(outside)

    @eager
    def first(*args: Any) -> Any:
        nonlocal call_again
        with compiled_runs_eagerly(), _Draws(kept, again=False, generators=generators):
            value = f(*args)
        generators.note()
        if generators.unseen:
            kept.clear()
            call_again = draw_again
            return draw_again(*args)
        call_again = handed_over(f, kept) if kept else f
        return value

    return lambda *args: (call_again or first)(*args)


class Generators:
    """The generators of the CPU and of a device, and whether anything has moved them unseen.

    Attributes:
        state: as it was expected last.
        unseen: whether `note` has found another.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.accelerator = None if device.type == "cpu" else getattr(torch, device.type)
        self.unseen = False
        self.expect()

    def read(self) -> tuple[Tensor, ...]:
        """The states."""
        own = () if self.accelerator is None else (self.accelerator.get_rng_state(self.device),)
        return torch.get_rng_state(), *own

    def set(self, state: tuple[Tensor, ...]) -> None:
        """Set them back."""
        torch.set_rng_state(state[0])
        if self.accelerator is not None:
            self.accelerator.set_rng_state(state[1], self.device)

    def expect(self) -> None:
        """Take the states as they are."""
        self.state = self.read()

    def note(self) -> None:
        """Compare them with what is expected."""
        self.unseen |= any(not torch.equal(a, b) for a, b in zip(self.state, self.read(), strict=True))


def _is_not_handed(func: Any, args: Any, kwargs: Any) -> bool:
    if func is F.scaled_dot_product_attention:
        return kwargs.get("dropout_p", args[4] if len(args) > 4 else 0) > 0
    return func in _NOT_HANDED


_WITH_DROPOUT = nn.MultiheadAttention, nn.RNNBase
_DROPOUTS = nn.AlphaDropout, nn.FeatureAlphaDropout


def draws_inside(function: Any) -> bool:
    """Whether a module has layers, in training mode, whose draws cannot be had apart from their results."""
    return isinstance(function, nn.Module) and any(
        layer.training
        and (
            isinstance(layer, nn.RReLU)
            or (isinstance(layer, _DROPOUTS) and layer.p > 0)
            or (isinstance(layer, _WITH_DROPOUT) and layer.dropout > 0)
        )
        for layer in function.modules()
    )
