"""Whether f, evaluated again in the backward, is what it was in the forward: the tensors it reads, and its values."""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor

from ..lifting import ends_of_tape
from ..pytree import Tensors
from ..sending import Fetched
from .field import UserField
from .solvers import Adaptive, ODESolver


class OtherTensorsError(Exception):
    """On a tape of f in the backward are other tensors than f read in the forward; the backward is to find out why.

    Attributes:
        point: (t, y, rows) where f read one that was not known; None: it did not read one that it had read before.
    """

    def __init__(self, point: tuple[Tensor, Tensor, Tensor | None] | None) -> None:
        super().__init__("f reads other tensors than in the forward")
        self.point = point


def check_tape(
    value: Tensor, since: int, known: Set[int], own: Tensors, t: Tensor, y: Tensor, rows: Tensor | None = None
) -> None:
    """Raise if the tape of f(t, y), recorded since `since`, ends elsewhere than in `own` and `known` (ids)."""
    leaves, edges = ends_of_tape((value,), since)
    if edges or leaves.keys() - known - {id(x) for x in own}:
        raise OtherTensorsError((t.detach(), y.detach(), rows))


def difference(again: Tensor, before: Tensor, start: Tensor, other: Tensor | None = None) -> Tensor:
    """Of a state that is computed again, relative to its size and that of the state at the start of the step.

    `other` are rows, (systems, 1), that failed: they are left out.
    """
    if not again.numel():
        return again.new_zeros(())
    left_out = ~before.isfinite() if other is None else other | ~before.isfinite()
    change, before, start = (torch.where(left_out, 0.0, x) for x in (again - before, before, start))
    size = before.abs().amax() + start.abs().amax()
    return torch.nan_to_num(change.abs().amax() / torch.where(size > 0, size, 1.0), nan=torch.inf)


def check_replay(found: Tensor, field: UserField, solver: ODESolver) -> None:
    """Raise if what the backward has computed again differs from the forward by more than rounding; one host read."""
    _check(float(found), _allowed(field, solver))


def check_replay_later(found: Tensor, field: UserField, solver: ODESolver) -> Tensor | None:
    """As `check_replay`, at once on the CPU. Else nobody waits: `raise_late` will, and the gradients are to be times
    the number that is returned: NaN if f has changed, so that nothing is trained by them.
    """
    if found.device.type == "cpu":
        check_replay(found, field, solver)
        return None
    allowed = _allowed(field, solver)
    _unread.append((Fetched(found), allowed))
    return torch.where(found <= allowed, 1.0, torch.nan)


def raise_late() -> None:
    """Raise for a backward of before whose check has come to the host by now."""
    there = [each for each in _unread if each[0].is_there]
    for each in there:
        _unread.remove(each)
    for found, allowed in there:
        _check(float(found.read()), allowed, " (seen in a backward of before, whose gradients are NaN)")


_unread: list[tuple[Fetched, float]] = []  # differences that are on their way to the host, and what is allowed


def _allowed(field: UserField, solver: ODESolver) -> float:
    """Rounding may change where a solve inside of f stops: half of the digits must agree, or those of autocast.

    Implicit stages are solved anew, to a part of the tolerance.
    """
    allowed = max(3 * torch.finfo(field.ravel.dtype).eps ** 0.5, 4 * field.eps)
    if isinstance(solver, Adaptive) and solver.tableau.implicit:
        allowed = max(allowed, float(torch.as_tensor(solver.rtol).max()))
    return allowed


def _check(worst: float, allowed: float, when: str = "") -> None:
    if worst > allowed:
        raise RuntimeError(
            f"f has changed between the forward and the backward{when}: its states differ by {worst:.1e}, relatively. "
            "What it reads besides tensors (numbers, training mode, random numbers) must stay as it was until the "
            "backward has run; or pass adjoint=Direct()"
        )
