"""Closure conversion: which tensors does a function read besides its arguments, and how to hand it others instead.

A condition may read module parameters and tensors of the scopes around it. First-order gradients on the tape need no
list of them. Higher orders and `torch.func` transforms do: each level of a transform has its own version of a tensor,
which the closure cannot know. So one evaluation of the condition is watched, and later ones get the replacements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

from .modes import carries_derivative, in_transform, is_wrapped
from .operator import reaches_leaf
from .pytree import Tensors


class _Watch(TorchFunctionMode):
    """Collects the tensors that enter torch functions and were made by none of them, and those that were made."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[int, Tensor] = {}
        self.made: dict[int, Tensor] = {}  # kept alive, so that no id is used twice

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for leaf in _pytree.arg_tree_leaves(*args, **kwargs):
            if isinstance(leaf, Tensor) and id(leaf) not in self.made:
                self.read.setdefault(id(leaf), leaf)
        result = func(*args, **kwargs)
        for leaf in _pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and id(leaf) not in self.read:
                self.made[id(leaf)] = leaf
        return result


class _Replace(TorchFunctionMode):
    """Hands other tensors to torch functions in place of those that a closure holds."""

    def __init__(self, replacement: dict[int, Tensor]) -> None:
        super().__init__()
        self._replacement = replacement

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def swap(leaf: Any) -> Any:
            return self._replacement.get(id(leaf), leaf)

        return func(*_pytree.tree_map(swap, args), **_pytree.tree_map(swap, kwargs or {}))


class Lifted:
    """A function of y with its captured tensors made explicit: `lifted(y, inputs)`; `lifted(y, ())` reads its own.

    Attributes:
        captured: the tensors found, in the order in which `inputs` replaces them.
    """

    def __init__(self, function: Callable[[Tensors], Tensors], captured: Sequence[Tensor]) -> None:
        self._function = function
        self.captured = tuple(captured)

    def __call__(self, y: Tensors, inputs: Tensors) -> Tensors:
        if not inputs:
            return self._function(y)
        with _Replace({id(old): new for old, new in zip(self.captured, inputs, strict=True)}):
            return self._function(y)


def lift(function: Callable[[Tensors], Tensors], y: Tensors) -> tuple[Lifted, Tensors]:
    """`function` as a `Lifted` of the tensors that carry derivatives or are batched, and its value at y."""
    watch = _Watch()
    with watch:
        value = function(y)
    own = {id(t) for t in y}
    transformed = in_transform()
    captured = [
        t for key, t in watch.read.items() if key not in own and (t.requires_grad or (transformed and _matters(t)))
    ]
    return Lifted(function, captured), value


def check_complete(condition: Callable[[Tensors, Tensors], Tensors], y: Tensors, inputs: Tensors) -> None:
    """Raise if the condition reads a tensor with derivatives that is neither y nor among `inputs`."""
    watch = _Watch()
    with torch.enable_grad(), watch:
        value = condition(tuple(t.detach() for t in y), tuple(t.detach() for t in inputs))
    if in_transform():
        hidden = any(carries_derivative(t) for t in value)
    else:
        hidden = reaches_leaf([t for t in value if t.requires_grad], watch.made)
    if hidden:
        raise RuntimeError(
            "the condition reads a tensor that needs a derivative in a way that hides it from torch functions "
            "(as an argument of a custom autograd.Function, say), so derivatives of higher order or inside "
            "torch.func would miss it; pass that tensor as one of the arguments"
        )


def _matters(tensor: Tensor) -> bool:
    return is_wrapped(tensor) or carries_derivative(tensor)
