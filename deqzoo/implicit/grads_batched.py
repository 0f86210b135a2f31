"""`torch.autograd.grad(..., is_grads_batched=True)`: the older vmap, which knows few operations and no control flow.

It runs under `torch.autograd.functional.jacobian(vectorize=True)` too. An operation that it does not know is called
once for each index; so one opaque operation stands for the whole adjoint solve.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from .pytree import Tensors

_library = torch.library.Library("deqzoo", "DEF")
_library.define("call(Tensor b, int key) -> Tensor")
_functions: dict[int, Callable[[Tensor], Tensor]] = {}
_keys = itertools.count()


def _call(b: Tensor, key: int) -> Tensor:
    return _functions[key](b)


_library.impl("call", _call, "CompositeExplicitAutograd")


def each_alone(function: Callable[[Tensors], Tensors], batched: Tensors, like: Tensors | None = None) -> Tensors:
    """`function` for each index of the old vmap in turn; its results have the shapes and dtypes of `like`.

    None: those of its arguments. They are off the tape: the operation that stands for the call has no derivative.
    """

    def on_vector(vector: Tensor) -> Tensor:
        return _joined(function(_split(vector, batched)), vector.dtype)

    key = next(_keys)  # an operation takes tensors and numbers: it finds the function by its number
    _functions[key] = on_vector
    try:
        with torch.no_grad():
            result = torch.ops.deqzoo.call(_joined(batched), key)
            return _split(result, batched if like is None else like)
    finally:
        del _functions[key]


def _joined(tensors: Tensors, dtype: torch.dtype | None = None) -> Tensor:
    """All entries in one vector; of the given dtype, or of the widest one among them."""
    return torch.cat([t.reshape(-1) if dtype is None else t.reshape(-1).to(dtype) for t in tensors])


def _split(vector: Tensor, like: Tensors) -> Tensors:
    """The inverse of `_joined`: tensors of the shapes and dtypes of `like`."""
    parts = vector.split([t.numel() for t in like])
    return tuple(part.reshape(t.shape).to(t.dtype) for part, t in zip(parts, like, strict=True))
