"""How the parts of solves are compiled that `torch.compile` is to take by themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

_GRAPHS = 64  # of each part at most: one for each function that is given, and kind of shape


def compiled(part: F) -> F:
    """`part`, by `torch.compile`."""
    known = inspect.signature(torch.compile).parameters  # the oldest torch has no limit of one function's own
    options: dict[str, Any] = {"recompile_limit": _GRAPHS} if "recompile_limit" in known else {}
    return torch.compile(part, **options)  # type: ignore[return-value]
