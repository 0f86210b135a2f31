"""A step of an explicit method as one graph of `torch.compile`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..compiling import compiled
from .counted_field import Field
from .tableaus import Tableau

Limits = tuple[Tensor, Tensor] | None


def explicit_step(
    f: Field, tableau: Tableau, t: Tensor, h: Tensor, y: Tensor, first: Tensor | None, limits: Limits
) -> tuple[Tensor, Tensor]:
    """y(t + h) and the stage values, (stages, systems, unknowns); `first`: f(t, y), if known."""

    def evaluate(t: Tensor, y: Tensor) -> Tensor:
        return f(t if limits is None else t.clamp(*limits), y, None)

    def advance(weights: tuple[float, ...]) -> Tensor:
        parts = [weight * value for weight, value in zip(weights, k, strict=True) if weight]
        return y + h * functools.reduce(torch.add, parts) if parts else y

    length, k, at = h.reshape(t.shape), [evaluate(t, y) if first is None else first], y
    for i in range(1, tableau.stages):
        at = advance(tableau.a[i][:i])
        k.append(evaluate(t + tableau.c[i] * length, at))
    return at if tableau.last_is_next else advance(tableau.b[: len(k)]), torch.stack(k)


@functools.cache
def compiled_step() -> Callable[..., tuple[Tensor, Tensor]]:
    """`explicit_step`, compiled."""
    return compiled(explicit_step)
