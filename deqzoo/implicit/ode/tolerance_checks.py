"""Whether the tolerances that users give are tolerances, and whether two are the same."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..modes import host_flags
from ..private_api import torch_pytree


def check_tolerances(rtol: Any, atol: Any) -> None:
    """Raise for a tolerance that is negative or not a number, and for two numbers that are both zero."""
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        for leaf in torch_pytree.tree_leaves(tolerance):
            if isinstance(leaf, bool) or not isinstance(leaf, (int, float, Tensor)):
                raise TypeError(
                    f"{name} must be a number, a tensor that broadcasts to the state, or a pytree of the state's "
                    f"structure with such leaves, got {type(leaf).__name__}"
                )
            if isinstance(leaf, Tensor) and leaf.is_complex():
                raise TypeError(f"{name} must be real, also of a complex state")
            good = host_flags(leaf >= 0)[0][1] if isinstance(leaf, Tensor) else leaf >= 0
            if not good:
                raise ValueError(f"rtol and atol must not be negative nor both zero, got {name}={tolerance}")
    if all(isinstance(x, (int, float)) and x == 0 for x in (rtol, atol)):
        raise ValueError(f"rtol and atol must not be negative nor both zero, got {rtol} and {atol}")


def same(a: Any, b: Any) -> bool:
    """Whether two tolerances are equal: numbers, tensors by their values, and trees of them."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return False
        return a is b or (a.shape == b.shape and a.device == b.device and bool((a == b).all()))
    if type(a) is not type(b):
        return bool(a == b)
    if isinstance(a, (dict, list, tuple)):
        (ours, structure), (theirs, other) = (torch_pytree.tree_flatten(x) for x in (a, b))
        return structure == other and all(map(same, ours, theirs))
    return bool(a == b)
