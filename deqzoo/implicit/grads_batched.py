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

    def split(flat: Tensor, like: Tensors) -> Tensors:
        parts = zip(flat.split([t.numel() for t in like]), like, strict=True)
        return tuple(part.reshape(t.shape).to(t.dtype) for part, t in parts)

    key = next(_keys)
    _functions[key] = lambda flat: torch.cat([t.reshape(-1).to(flat.dtype) for t in function(split(flat, batched))])
    try:
        with torch.no_grad():
            flat = torch.ops.deqzoo.call(torch.cat([t.reshape(-1) for t in batched]), key)
            return split(flat, batched if like is None else like)
    finally:
        del _functions[key]
