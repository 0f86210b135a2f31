"""What a solve made of a fault in its input: counted, sample by sample."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass
class Told:
    """What a call returned, and whether it warned."""

    value: Tensor | None
    warned: bool
    raised: bool = False


def told(call: Callable[[], Tensor]) -> Told:
    """The call's result; an error is an answer too, and the loudest."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            value = call()
        except (RuntimeError, ValueError):
            return Told(None, False, True)
    return Told(value, any(issubclass(warning.category, RuntimeWarning) for warning in seen))


def outcomes(found: Told, right: Tensor, tol: float = 1e-3) -> Counter[str]:
    """How many samples came out "right", as "not a number", wrong but "told" of, and wrong in "silence".

    Of a sample whose right answer is NaN, every finite one is wrong.
    """
    if found.raised:
        return Counter({"told": len(right)})
    value, right = found.value.detach().double().flatten(1), right.detach().double().flatten(1)
    assert value.shape == right.shape, (value.shape, right.shape)
    error = torch.linalg.vector_norm(value - right, dim=1)
    good = error <= tol * torch.linalg.vector_norm(right, dim=1) + tol
    lost = ~torch.isfinite(value).all(1)
    wrong = ~good & ~lost
    counts = {"right": good, "not a number": lost, "told": wrong & found.warned, "silence": wrong & (not found.warned)}
    return Counter({name: int(mask.sum()) for name, mask in counts.items() if mask.any()})


def with_bad(x: Tensor, value: float, row: int = 1) -> Tensor:
    """The batch with one entry of one sample replaced."""
    x = x.detach().clone()
    x[row].view(-1)[0] = value
    return x


def with_nan(right: Tensor, row: int = 1) -> Tensor:
    """The answers, of which one has none."""
    right = right.detach().clone()
    right[row] = NAN
    return right
