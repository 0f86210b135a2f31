"""The numbers that a function is given and computes with: whether they are finite, and how precise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .pytree import tensor_leaves


class Coarsest(TorchFunctionMode):
    """Inside, watches for the coarsest half-precision type in which a torch function returns its result.

    So it sees what autocast does, a half-precision state, and a function that converts on its own.

    Attributes:
        dtype: that type; until one is seen, the one given.

    >>> with Coarsest(torch.float32) as seen:
    ...     _ = torch.ones(2).bfloat16().float()
    >>> seen.dtype
    torch.bfloat16
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call `func`, and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in (result,) if isinstance(result, Tensor) else result if isinstance(result, tuple | list) else ():
            if isinstance(value, Tensor) and value.dtype.itemsize <= 2 and value.dtype.is_floating_point:
                self.dtype = max(self.dtype, value.dtype, key=_rounding)
        return result

    def first_call(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """`f`, whose first call is watched: what is around it takes no longer for that, nor do later calls."""
        watches = [self]

        def call(*args: Any) -> Any:
            if not watches:
                return f(*args)
            with watches.pop():
                return f(*args)

        return call


def expected_precision(state: torch.dtype, leaves: Sequence[torch.dtype], device: str) -> torch.dtype:
    """That in which a function is to run, as far as can be told before: half by autocast, or where the state is so."""
    autocast = [torch.get_autocast_dtype(device)] if torch.is_autocast_enabled(device) else []
    return max([state, *(dtype for dtype in (*leaves, *autocast) if dtype.itemsize <= 2)], key=_rounding)


def _rounding(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def finite_inputs(args: Any, batch_shape: torch.Size, device: torch.device) -> Tensor | None:
    """Whether the arguments of each system are free of NaN and Inf, (systems,); None where no tensor is a system's own.

    A tensor belongs to the systems if the batch axes are its leading ones. Others are shared by all, and may hold an
    Inf for a purpose, as masks do: of them the residual tells.
    """
    systems, finite = math.prod(batch_shape), None
    for leaf in tensor_leaves(args):
        own = leaf.shape[: len(batch_shape)] == batch_shape and leaf.device == device and leaf.numel() > 0
        if own and (leaf.is_floating_point() or leaf.is_complex()):
            rows = torch.view_as_real(leaf.detach()) if leaf.is_complex() else leaf.detach()
            rows = rows.reshape(systems, -1)
            # `vector_norm` of order inf takes many times as long on the CPU, abs().amax() a copy.
            of_leaf = (rows.amax(dim=1) < torch.inf) & (rows.amin(dim=1) > -torch.inf)
            finite = of_leaf if finite is None else finite & of_leaf
    return finite
