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


def each_alone(function: Callable[[Tensors], Tensors], batched: Tensors) -> Tensors:
    """`function` for each index of the old vmap in turn; its results have the shapes and dtypes of its arguments.

    They are off the tape: the operation that stands for the solve has no derivative.
    """
    sizes, shapes, dtypes = (
        [t.numel() for t in batched],
        [t.shape for t in batched],
        [t.dtype for t in batched],
    )

    def split(flat: Tensor) -> Tensors:
        parts = zip(flat.split(sizes), shapes, dtypes, strict=True)
        return tuple(part.reshape(shape).to(dtype) for part, shape, dtype in parts)

    key = next(_keys)
    _functions[key] = lambda flat: torch.cat([t.reshape(-1).to(flat.dtype) for t in function(split(flat))])
    try:
        with torch.no_grad():
            return split(torch.ops.deqzoo.call(torch.cat([t.reshape(-1) for t in batched]), key))
    finally:
        del _functions[key]
