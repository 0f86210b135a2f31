"""Output times: where steps begin and how long they are, as functions of the times that the user gave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..modes import carries_derivative, in_transform, is_vmapped, unwrap
from ..private_api import below_all_transforms
from ..sending import send
from .controllers import Step
from .stage_values import Length


class Times:
    """The output times t_0, ..., t_n of a solve, strictly increasing or strictly decreasing; and the jumps of f.

    A step lies in a segment between two points: output times, numbered 0, ..., n, or jumps, numbered n + 1, ... It
    begins at p_a + start (p_b - p_a), with a fraction `start` that is a constant: so the steps move with the
    times, and the gradient with respect to t is that of the computed solution.

    Args:
        t: (n + 1,).
        y: the state, (systems, unknowns): lengths of steps have its dtype and device.
        jumps: times at which f jumps.
        dtype: of the times that f gets; None: that of t or of y, whichever is more precise.
    """

    def __init__(self, t: Tensor, y: Tensor, jumps: Sequence[float] = (), dtype: torch.dtype | None = None) -> None:
        self.dtype = torch.promote_types(t.dtype, y.dtype) if dtype is None else dtype
        self.eps = torch.finfo(t.dtype).eps  # to which the output times are rounded
        self.state, self.device = y.dtype, y.device
        self.moving = are_moving(t)
        if in_transform():  # under vmap over t there is a row of times for each index
            rows = torch.stack([unwrap(time).reshape(-1) for time in t.detach().unbind()]).T.cpu().double()
        else:
            rows = t.detach().cpu().double().unsqueeze(0)
        steps = rows.diff(dim=1)
        if not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise ValueError("the output times t must be finite and strictly increasing, or strictly decreasing")
        fractions = (rows - rows[:, :1]) / (rows[:, -1:] - rows[:, :1]) if len(t) > 1 else rows * 0.0
        if not torch.allclose(fractions, fractions[:1], rtol=0, atol=1e-9):
            raise ValueError("under vmap over t, the output times must lie at the same fractions of their spans")
        if jumps and len(rows) > 1:
            raise ValueError("jump_times do not work under vmap over t: solve without vmap, or without them")
        self.count = len(t)
        self.host: list[float] = rows[0].tolist() if len(rows) else []  # output times
        self.points = [*self.host, *jumps]
        self.table = torch.tensor(self.points, dtype=torch.float64)
        self._jumps = frozenset(jumps)
        if self.moving:
            constants = self._sent(torch.tensor(jumps, dtype=torch.float64))
            self.t = torch.cat([t.to(self.dtype), constants]) if jumps else t.to(self.dtype)

    def __len__(self) -> int:
        return self.count

    def step(self, step: Step) -> tuple[Tensor, Length]:
        """Time at the begin of a step, () or (rows,), and its length, a number or (rows, 1)."""
        if self.moving:
            begin, h = self._moving(step)
            return begin, h.reshape(-1, 1).to(self.state)
        begin, h = self.on_host(step)
        if isinstance(h, Tensor):
            return self._sent(begin), send(h.to(self.state), self.device).unsqueeze(1)
        return torch.full((), begin, dtype=self.dtype, device=self.device), h

    def _moving(self, step: Step) -> tuple[Tensor, Tensor]:
        start, size = self._constant(step.start), self._constant(step.size)
        a, b = (self.t[x if isinstance(x, int) else send(x, self.device)] for x in (step.a, step.b))
        return a + start * (b - a), size * (b - a)

    def on_host(self, step: Step) -> tuple[Any, Any]:
        """Begin and length of a step, numbers or (rows,) in float64."""
        points: Any = self.table if isinstance(step.size, Tensor) else self.points
        a, b = points[step.a], points[step.b]
        return a + step.start * (b - a), step.size * (b - a)

    def from_jump(self, step: Step) -> bool:
        """Whether a step, or that of one of its rows, begins at a jump."""
        if not self._jumps:
            return False
        if isinstance(step.a, int) and isinstance(step.start, float):
            return step.start == 0 and self.points[step.a] in self._jumps
        return bool((self._is_jump(step.a) & torch.as_tensor(step.start == 0)).any())

    def limits(self, step: Step) -> tuple[Tensor, Tensor] | None:
        """Earliest and latest time at which f is evaluated in a step, beside jumps; None: any."""
        if not self._jumps:
            return None
        if isinstance(step.a, int) and isinstance(step.b, int) and isinstance(step.start, float):
            return self._limits_of_all(step.a, step.b, step.start == 0, step.last)
        with below_all_transforms():
            a, b = self.table[step.a], self.table[step.b]
            forward = (b - a).sign()
            aside = 4 * torch.finfo(self.dtype).eps * torch.maximum(a.abs(), b.abs()) * forward
            begins = self._is_jump(step.a) & torch.as_tensor(step.start == 0)
            ends = self._is_jump(step.b) & torch.as_tensor(step.last)
            first = torch.where(begins, a + aside, -torch.inf * forward)
            last = torch.where(ends, b - aside, torch.inf * forward)
            low, high = torch.minimum(first, last), torch.maximum(first, last)
        return self._sent(low), self._sent(high)

    def _limits_of_all(self, a: int, b: int, begins: bool, ends: bool) -> tuple[Tensor, Tensor] | None:
        """As `limits`, of a step that all systems take: by numbers, for calls of tensors take as long as a small f."""
        begins, ends = begins and self.points[a] in self._jumps, ends and self.points[b] in self._jumps
        if not (begins or ends):
            return None
        start, end = self.points[a], self.points[b]
        forward = math.copysign(1.0, end - start)
        aside = 4 * torch.finfo(self.dtype).eps * max(abs(start), abs(end)) * forward
        first = start + aside if begins else -math.inf * forward
        last = end - aside if ends else math.inf * forward
        with below_all_transforms():
            low, high = (
                torch.full((), x, dtype=self.dtype, device=self.device) for x in (min(first, last), max(first, last))
            )
        return low, high

    def _is_jump(self, point: int | Tensor) -> Tensor:
        return torch.isin(self.table[point], torch.tensor(sorted(self._jumps), dtype=torch.float64))

    def theta(self, step: Step, index: Tensor, position: Tensor | None) -> Tensor:
        """Fractions of a step at which output times lie, (points,): those of `index`, at the rows `position`."""
        begin, h = self._moving(step) if self.moving else self.on_host(step)
        if position is not None and isinstance(step.size, Tensor):
            position = position.to(begin.device)
            begin, h = begin[position], h[position]
        at = self.t[send(index, self.device)] if self.moving else self.table[index]
        return send(((at - begin) / h).to(self.state), self.device)

    def _constant(self, value: float | Tensor) -> Tensor | float:
        return self._sent(value) if isinstance(value, Tensor) else value

    def _sent(self, value: Tensor) -> Tensor:
        return send(value.to(self.dtype), self.device)


def are_moving(t: Tensor) -> bool:
    """Whether derivatives go to the output times, or `vmap` over them: then they stay tensors, on their device."""
    if in_transform():
        return is_vmapped(t) or carries_derivative(t)
    return t.requires_grad and torch.is_grad_enabled()
