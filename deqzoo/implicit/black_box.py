"""Calling a solver that torch cannot see into: NumPy, SciPy, C."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .modes import in_transform, is_vmapped, unwrap
from .private_api import below_all_transforms, torch_pytree
from .pytree import map_tensors, tensor_leaves


def call_black_box(solve: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """`solve` on plain tensors, whatever transforms are active; under `vmap`, once for each index.

    There tensors are stacked; what else it returns must be the same for each index.
    """
    if not in_transform():
        return solve(*args)
    tensors, structure = torch_pytree.tree_flatten(args)
    result = types.SimpleNamespace()
    try:
        if not any(is_vmapped(t) for t in tensor_leaves(args)):
            with below_all_transforms():
                return solve(*map_tensors(unwrap, args))
        found = iter(_LoopOverBatch.apply(solve, structure, result, *tensors))
    except RuntimeError as error:
        if "escaped" not in str(error):
            raise
        raise RuntimeError(
            "solve reads a tensor that it captures and that a torch.func transform has wrapped; what a black box "
            "reads must be among its arguments"
        ) from error
    leaves = [next(found) if leaf is _STACKED else leaf for leaf in result.leaves]
    return torch_pytree.tree_unflatten(leaves, result.structure)


def as_tensors(tree: Any, args: tuple[Any, ...]) -> Any:
    """A result of NumPy or of Python's numbers as tensors, on the device of the arguments.

    Arrays keep their dtype; Python's numbers take that of the first floating-point argument.
    """
    like = next((t for t in tensor_leaves(args) if t.is_floating_point()), torch.empty(()))

    def tensor(leaf: Any) -> Any:
        if type(leaf).__module__ == "numpy" and hasattr(leaf, "dtype"):
            return torch.as_tensor(leaf.copy(), device=like.device)  # ours: the solver may use its array again
        return torch.tensor(leaf, dtype=like.dtype, device=like.device) if isinstance(leaf, int | float) else leaf

    return tree if isinstance(tree, Tensor) else torch_pytree.tree_map(tensor, tree)


_STACKED = object()  # in place of a tensor that is a batch now


class _LoopOverBatch(torch.autograd.Function):
    """A black box under `torch.func.vmap`: called for each index in turn, the results stacked."""

    @staticmethod
    def forward(solve: Any, structure: Any, result: Any, *leaves: Any) -> tuple[Tensor, ...]:
        out, result.structure = torch_pytree.tree_flatten(solve(*torch_pytree.tree_unflatten(list(leaves), structure)))
        result.leaves = [_STACKED if isinstance(leaf, Tensor) else leaf for leaf in out]
        return tuple(leaf for leaf in out if isinstance(leaf, Tensor))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, solve: Any, structure: Any, result: Any, *leaves: Any) -> Any:
        dims = in_dims[3:]
        calls, others = [], []
        for i in range(info.batch_size):
            chosen = [t if d is None else t.select(d, i) for t, d in zip(leaves, dims, strict=True)]
            calls.append(_LoopOverBatch.apply(solve, structure, result, *chosen))
            others.append(result.leaves)
        for values in zip(*others, strict=True):
            if not all(value is values[0] or value == values[0] for value in values):
                raise TypeError(
                    f"under vmap, solve returned {values[0]!r} for one index and another value for the next; what "
                    "differs between them, in y or in aux, must be a tensor"
                )
        return tuple(torch.stack(parts) for parts in zip(*calls, strict=True)), (0,) * len(calls[0])
