"""Calling a solver that torch cannot see into: NumPy, SciPy, C."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.utils import _pytree

from .modes import in_transform, is_vmapped, peel
from .pytree import map_tensors, tensor_leaves


def call_black_box(solve: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`solve` on plain tensors, whatever transforms are active; under `vmap`, once for each index."""
    if not in_transform():
        return solve(*args)
    if not any(is_vmapped(t) for t in tensor_leaves(args)):
        with temporarily_clear_interpreter_stack():
            return solve(*map_tensors(peel, args))
    tensors, structure = _pytree.tree_flatten(args)
    result = types.SimpleNamespace()
    leaves = _LoopOverBatch.apply(solve, structure, result, *tensors)
    return _pytree.tree_unflatten(leaves, result.structure)


class _LoopOverBatch(torch.autograd.Function):
    """A black box under `torch.func.vmap`: called for each index in turn, the results stacked."""

    @staticmethod
    def forward(solve: Any, structure: Any, result: Any, *leaves: Any) -> tuple[Tensor, ...]:
        out, result.structure = _pytree.tree_flatten(solve(*_pytree.tree_unflatten(list(leaves), structure)))
        return tuple(out)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, solve: Any, structure: Any, result: Any, *leaves: Any) -> Any:
        dims = in_dims[3:]
        calls = []
        for i in range(info.batch_size):
            chosen = [t if d is None else t.select(d, i) for t, d in zip(leaves, dims, strict=True)]
            calls.append(_LoopOverBatch.apply(solve, structure, result, *chosen))
        return tuple(torch.stack(parts) for parts in zip(*calls, strict=True)), (0,) * len(calls[0])
