"""Output times: where steps begin and how long they are, as functions of the times that the user gave."""

from __future__ import annotations

import torch
from torch import Tensor

from ..modes import carries_derivative, in_transform, is_vmapped, peel
from .plans import Step
from .steps import Length


class Times:
    """The output times t_0, ..., t_n of a solve, strictly increasing or strictly decreasing.

    A step begins at t_a + start (t_b - t_a), with a fraction `start` that is a constant: so the steps move with the
    times, and the gradient with respect to t is that of the computed solution.

    Args:
        t: (n + 1,).
        y: the state, (systems, unknowns): steps have its dtype and device.
    """

    def __init__(self, t: Tensor, y: Tensor) -> None:
        self.t = t
        self.dtype, self.device = y.dtype, y.device
        self.moving = t.requires_grad and torch.is_grad_enabled()
        if in_transform():
            self.moving = is_vmapped(t) or carries_derivative(t)
        if in_transform():  # under vmap over t there is a row of times for each index
            rows = torch.stack([peel(time).reshape(-1) for time in t.detach().unbind()]).T.double().cpu()
        else:
            rows = t.detach().double().cpu().unsqueeze(0)
        self.host: list[float] = rows[0].tolist() if len(rows) else []
        steps = rows.diff(dim=1)
        if not (bool((steps > 0).all()) or bool((steps < 0).all())):
            raise ValueError("the output times t must be finite and strictly increasing, or strictly decreasing")
        fractions = (rows - rows[:, :1]) / (rows[:, -1:] - rows[:, :1]) if len(t) > 1 else rows * 0.0
        if not torch.allclose(fractions, fractions[:1], rtol=0, atol=1e-9):
            raise ValueError("under vmap over t, the output times must lie at the same fractions of their spans")
        self.fractions = fractions[0]

    def __len__(self) -> int:
        return len(self.t)

    def step(self, step: Step) -> tuple[Tensor, Length]:
        """Time at the begin of a step, () or (rows,), and its length, a number or (rows, 1)."""
        if self.moving:
            t, start, size = self.t.to(self.dtype), self._constant(step.start), self._constant(step.size)
            begin, h = t[step.a] + start * (t[step.b] - t[step.a]), size * (t[step.b] - t[step.a])
            return begin, h.unsqueeze(1) if isinstance(step.size, Tensor) else h.reshape(1, 1)
        span = self.host[step.b] - self.host[step.a]
        if isinstance(step.size, Tensor):
            start, size = step.each()
            both = torch.stack([self.host[step.a] + start * span, size * span])
            begin, h = both.to(self.dtype).to(self.device).unbind()
            return begin, h.unsqueeze(1)
        start, size = step.shared()
        begin = torch.full((), self.host[step.a] + start * span, dtype=self.dtype, device=self.device)
        return begin, size * span

    def theta(self, step: Step, index: Tensor, position: Tensor | None) -> Tensor:
        """Fractions of a step at which output times lie, (points,): those of `index`, at the rows `position`."""
        start, size = step.start, step.size
        if isinstance(start, Tensor):
            start, size = (x[position] for x in step.each())
        if self.moving:
            t = self.t.to(self.dtype)
            fraction = (t[index.to(self.device)] - t[step.a]) / (t[step.b] - t[step.a])
            return (fraction - self._constant(start)) / self._constant(size)
        return ((self.fractions[index] - start) / size).to(self.dtype).to(self.device)

    def _constant(self, value: float | Tensor) -> Tensor | float:
        return value.to(self.dtype).to(self.device) if isinstance(value, Tensor) else value
