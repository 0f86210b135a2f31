"""A step of a splitting method, of positions and momenta in turn; see `SplittingTableau`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .counted_field import CountedField, Field
from .stage_values import Length, Stages
from .tableaus import SplittingTableau


def splitting_step(
    field: CountedField, stages: Stages, t: Tensor, h: Length, y: Tensor, first: Tensor | None, rows: Tensor | None
) -> Tensor:
    """y(t + h); keeps f at the end. The first half of the unknowns is q, the second p; `first`: f(t, y), if known.

    f is evaluated as a whole, and half of its value is used.
    """
    tableau = field.tableau
    assert isinstance(tableau, SplittingTableau)
    length = h if isinstance(h, float) else h.reshape(t.shape)
    half = y.shape[1] // 2
    q, p = y[:, :half], y[:, half:]
    slope = field.evaluate(t, y, rows) if first is None else first
    p = p + tableau.kicks[0] * h * slope[:, half:]
    of_q, of_p = 0.0, tableau.kicks[0]  # the times of q and p, as fractions of the step
    for drift, kick in zip(tableau.drifts, tableau.kicks[1:], strict=True):
        slope = field.evaluate(t + of_p * length, torch.cat([q, p], dim=1), rows)
        q, of_q = q + drift * h * slope[:, :half], of_q + drift
        slope = field.evaluate(t + of_q * length, torch.cat([q, p], dim=1), rows)
        p, of_p = p + kick * h * slope[:, half:], of_p + kick
    stages.put(0, slope)
    return torch.cat([q, p], dim=1)


def check_pair(y0: Any, method: str) -> None:
    """Raise unless y0 is a pair (q, p) of tensors of one shape.

    >>> check_pair((torch.zeros(2), torch.zeros(3)), "Leapfrog")
    Traceback (most recent call last):
    ValueError: Leapfrog needs a state (q, p) of two tensors of one shape, got shapes (2,) and (3,)
    """
    if not (isinstance(y0, tuple | list) and len(y0) == 2 and all(isinstance(half, Tensor) for half in y0)):
        raise ValueError(
            f"{method} needs a state (q, p), a pair of tensors: positions and momenta. Of a tensor y that holds both, "
            "give y.chunk(2, -1), and let f take and return such a pair"
        )
    q, p = y0
    if q.shape != p.shape or q.is_complex() != p.is_complex():
        shapes = f"got shapes {tuple(q.shape)} and {tuple(p.shape)}" if q.shape != p.shape else "one of them is complex"
        raise ValueError(f"{method} needs a state (q, p) of two tensors of one shape, {shapes}")


def check_separable(f: Field, t: Tensor, y: Tensor, eps: float, method: str) -> None:
    """Raise unless near (t, y) dq/dt does not change with q, nor dp/dt with p; three calls of f, and one host read."""
    half = y.shape[1] // 2
    if not y.numel():
        return
    other = y + 0.1 * (1 + y.abs())
    slope = f(t, y, None)
    of_p = f(t, torch.cat([y[:, :half], other[:, half:]], dim=1), None)[:, half:] - slope[:, half:]
    of_q = f(t, torch.cat([other[:, :half], y[:, half:]], dim=1), None)[:, :half] - slope[:, :half]
    allowed = 1000 * eps * slope.abs().amax(dim=1)  # rounding, where f has both in one expression
    change = torch.stack([of_q.abs().amax(dim=1), of_p.abs().amax(dim=1)])
    if bool((change > allowed).any()):
        raise ValueError(
            f"{method} is for separable Hamiltonians, H = T(p) + V(q): dq/dt = f(t, (q, p))[0] must not depend on q, "
            "nor dp/dt on p (no friction, no masses that change with q). For other equations use RK4 or Tsit5"
        )
