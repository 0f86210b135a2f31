"""Parameters of sets and penalties: numbers or tensors, checked where that costs nothing."""

from __future__ import annotations

import torch
from torch import Tensor

Parameter = float | Tensor


def parameter(value: Parameter, like: Tensor) -> Tensor:
    """The value as a tensor of the dtype and device of another, with the derivatives that it has."""
    if isinstance(value, Tensor):
        return value.to(like)
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def ordered(lower: Parameter | None, upper: Parameter | None, message: str) -> None:
    """Raise a ValueError where lower <= upper does not hold, of two numbers: tensors would make the host wait."""
    if isinstance(lower, int | float) and isinstance(upper, int | float) and not lower <= upper:
        raise ValueError(f"{message}, got {lower} and {upper}")
