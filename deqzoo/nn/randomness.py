"""The random draws of a layer: made in the first evaluation of a solve, and handed over to all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..implicit.modes import compiled_runs_eagerly, eager, is_vmapped, unwrap
from ..implicit.private_api import saved_tensor_hooks

Kept = list[tuple[Any, Any, Tensor]]

_MASKS = F.dropout, F.dropout1d, F.dropout2d, F.dropout3d  # each multiplies its argument by what it draws
_MADE = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.rand_like, torch.randn_like, torch.randint_like)
_FILLED = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.bernoulli_, torch.Tensor.exponential_)


def _functions(*lines: str) -> frozenset[Any]:
    """All functions, methods and operators of these names."""
    places = torch, torch.Tensor, F, torch.ops.aten
    names = [name for line in lines for name in line.split()]
    found = {getattr(place, name) for name in names for place in places if hasattr(place, name)}
    packets = [function for function in found if hasattr(function, "overloads")]
    return frozenset(found | {getattr(packet, name) for packet in packets for name in packet.overloads()})


# What a draw of these means depends on their arguments, or it cannot be had by itself.
_ALWAYS_DRAW = _functions(
    "bernoulli bernoulli_ binomial cauchy_ exponential_ geometric_ gumbel_softmax log_normal_ multinomial normal",
    "normal_ poisson rand rand_like randint randint_like randn randn_like random_ randperm uniform_ _standard_gamma",
    "_sample_dirichlet rrelu_with_noise",
)
_DROP_OUT = _functions(
    "dropout dropout_ native_dropout feature_dropout feature_dropout_ alpha_dropout alpha_dropout_",
    "feature_alpha_dropout feature_alpha_dropout_",
)
_RRELU = _functions("rrelu rrelu_")


def same_randomness(
    f: Callable[..., Any], function: Any, device: torch.device, one_graph: bool = False
) -> Callable[..., Any]:
    """`f`, which calls `function`, with the same random draws in each call; outside, as after a single call.

    The first call keeps what it draws: masks of dropout, and `torch.rand` and its kin. The others are given the same
    tensors, and touch no generator. Where the first call draws nothing, the others are plain calls. Where it draws by
    other means (dropout within attention or recurrent layers), or a part of f is evaluated again in the backward
    (`torch.utils.checkpoint`), the others set the generators back. A function must draw in each call or in none.

    `one_graph` tells that `torch.compile` takes the whole solve where it takes this. In a graph there are no generators
    to set: such layers stay out of it, and such functions are an error (but `torch.normal` of a tensor, which Dynamo
    shows no mode: there the solve does not converge).
    """
    if one_graph and torch.compiler.is_compiling() and not draws_inside(function):
        return _handed_over_in_graph(f)
    return _same_randomness(f, device)


class _EvaluatedLater(Exception):
    """A draw within a part of f that the backward evaluates again, when nothing is handed over any more."""

    def __init__(self, draws: _Draws) -> None:
        super().__init__("a part of f is evaluated again in the backward")
        self.draws = draws


class _Draws(TorchFunctionMode):
    """Inside, what is drawn is kept, in order, or is what has been kept.

    Args:
        kept: so far: by what it was drawn, of which shape, and the numbers.
        again: hand over what is kept.
        generators: tell of draws that were not seen here; None: not looked at.
        in_graph: a draw that cannot be handed over is an error.
    """

    def __init__(self, kept: Kept, again: bool, generators: Generators | None = None, in_graph: bool = False) -> None:
        super().__init__()
        self.kept, self.again, self.generators, self.in_graph, self.next = kept, again, generators, in_graph, 0
        self.tape = None if in_graph else _tape()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MASKS:
            return self._masked(func, *args, **kwargs)
        if func in _MADE and "out" not in kwargs:
            shape = args[0].shape if isinstance(args[0], Tensor) else args
            return self._drawn(func, shape, lambda: func(*args, **kwargs)).clone()
        if func in _FILLED and not any(isinstance(value, Tensor) for value in (*args[1:], *kwargs.values())):
            own = args[0]
            return own.copy_(self._drawn(func, own.shape, lambda: func(own.detach(), *args[1:], **kwargs).clone()))
        if self.in_graph and _is_not_handed(func, args, kwargs):
            raise RuntimeError(
                f"what {func.__name__} draws cannot be handed over within a graph of torch.compile, so that each step "
                "of a solve would draw anew; leave the layer uncompiled, or draw by torch.rand or nn.functional.dropout"
            )
        return func(*args, **kwargs)

    def _masked(self, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return func(input, p, training, inplace)
        mask = self._drawn(func, input.shape, lambda: func(torch.ones_like(input).detach(), p, True))
        return input.mul_(mask) if inplace else input * mask

    def _drawn(self, func: Any, shape: Any, draw: Callable[[], Tensor]) -> Tensor:
        """What was drawn in this place, or is drawn now."""
        if self.again:
            if not self.in_graph and _tape() != self.tape:
                raise _EvaluatedLater(self)
            return self._again(func, shape)
        if self.generators is not None:
            self.generators.note()
        value = draw()
        if self.generators is not None:
            # Drawn within a vmap of f's own, which ends before the solve, or what the backward is to draw again.
            if is_vmapped(value) or _tape() != self.tape:
                self.generators.unseen = True
                return value
            self.generators.expect()
            value = unwrap(value)
        self.kept.append((func, shape, value))
        return value

    def _again(self, func: Any, shape: Any) -> Tensor:
        if self.next == len(self.kept):
            raise RuntimeError("an evaluation of f draws more random numbers than the first one of the solve did")
        first, of_shape, value = self.kept[self.next]
        self.next += 1
        if first is not func or of_shape != shape:
            raise RuntimeError(
                f"an evaluation of f draws by {func.__name__}, of shape {tuple(shape)}, what the first one of the "
                f"solve drew by {first.__name__}, of shape {tuple(of_shape)}; each is to draw the same numbers"
            )
        return value


def _handed_over_in_graph(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f`, whose calls are given what the first one draws."""
    kept: Kept = []
    again = False

    def call(*args: Any) -> Any:
        nonlocal again
        with _Draws(kept, again, in_graph=True):
            value = f(*args)
        if not again:  # a backward may change nothing outside it in a graph
            again = True
        return value

    return call


@eager
def _same_randomness(f: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    generators = Generators(device)
    start = generators.state
    kept: Kept = []
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
        call_again = handed_over if kept else f
        return value

    def handed_over(*args: Any) -> Any:
        nonlocal call_again
        draws = _Draws(kept, again=True)
        try:
            with draws:
                return f(*args)
        except _EvaluatedLater as found:
            if found.draws is not draws:
                raise
        call_again = draw_again
        return draw_again(*args)

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


def _tape() -> tuple[Any, bool]:
    """What `torch.utils.checkpoint` changes for the part that it evaluates again in the backward."""
    return saved_tensor_hooks(), torch.is_grad_enabled()


def _is_not_handed(func: Any, args: Any, kwargs: Any) -> bool:
    if func is F.scaled_dot_product_attention:
        return _argument("dropout_p", 4, 0.0, args, kwargs) > 0
    if func is F.multi_head_attention_forward:
        return _argument("dropout_p", 10, 0.0, args, kwargs) > 0 and kwargs.get("training", True)
    if func in _DROP_OUT:
        training = _argument("training", 2, kwargs.get("train", True), args, kwargs)
        return bool(training) and _argument("p", 1, 0.5, args, kwargs) > 0
    if func in _RRELU:
        return bool(_argument("training", 3, False, args, kwargs))
    return func in _ALWAYS_DRAW


def _argument(name: str, place: int, default: Any, args: Any, kwargs: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


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
