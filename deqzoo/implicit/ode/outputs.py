"""The states at the output times, collected while steps are taken."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..private_api import below_all_transforms
from ..sending import send
from .controllers import Step
from .interpolants import Taken
from .stage_values import Length, Stages, coefficients, dense_weights
from .steps import Stepper
from .times import Times
from .trajectory import Points

_ROUNDING = 1e-9  # of a fraction of a step


class Outputs:
    """Collects the states at the output times."""

    def __init__(self, times: Times, y: Tensor) -> None:
        self.times, self.systems = times, len(y)
        self.points: list[list[Points]] = []
        self._next = torch.ones(self.systems, dtype=torch.long)  # the output time that each system comes to next
        self._failed: dict[int, tuple[int, Tensor]] = {}  # of systems: what they came to, and their last state
        self._found = [torch.arange(self.systems)]  # index * systems + system
        self._values = [y]

    def add(self, taken: Taken, new: Tensor) -> None:
        """Those within a step; `new` is the state after it, in the rows of `taken.before`."""
        points_within = self._within(taken.step)
        self.points.append(points_within)
        systems = self._systems_of(taken.step)
        for points in points_within:
            position = points.position
            if position is None:
                self._found.append((points.index.unsqueeze(1) * self.systems + systems).reshape(-1))
            else:
                self._found.append(points.index * self.systems + systems[position])
                position = send(position, new.device)
                position = position if taken.accepted is None else taken.accepted[position]
            if points.end:
                self._values.append(new if position is None else new[position])
                continue
            taken.complete()
            theta = self.times.theta(taken.step, points.index, points.position)
            values = interpolate(taken.stepper, taken.stages, taken.h, taken.before, theta, position)
            self._values.append(values.flatten(0, -2))

    def inside(self, step: Step, near: Sequence[float]) -> Tensor | None:
        """Fractions of a step with output times, the nearest to the given ones, (near, rows), or (near, 1) for all.

        Where there are fewer, some are the given ones. NaN where there is none; None where there is none in any row.
        """
        with below_all_transforms():
            begin, size = (torch.as_tensor(x, dtype=torch.float64).reshape(-1, 1) for x in self.times.on_host(step))
            theta = (self.times.table[int(self._next.min()) : len(self.times)] - begin) / size
            theta = torch.where((theta > _ROUNDING) & (theta < 1 - _ROUNDING), theta, torch.nan)
            if theta.isnan().all():
                return None
            found: list[Tensor] = []
            for fraction in near:
                place = (theta - fraction).abs().nan_to_num(torch.inf).argmin(dim=1, keepdim=True)
                nearest = theta.gather(1, place).squeeze(1)
                for other in found:
                    nearest = torch.where(nearest == other, fraction, nearest)
                found.append(nearest)
            return torch.stack(found)

    def fail(self, systems: Tensor, y: Tensor) -> None:
        """Systems that failed where they share their steps, at the state y."""
        for system in systems.tolist():
            self._failed.setdefault(system, (int(self._next[system]), y[system].detach()))

    def finish(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """The states, (times, systems, unknowns), and which are missing: those are the last ones of their systems."""
        result, missing = self._in_order(last)
        if self._failed:
            end = last.index_copy(0, *self._of_failed(last.device))
            for system, (reached, _) in self._failed.items():
                missing[reached:, system] = True
            result = torch.where(send(missing.unsqueeze(2), last.device), end, result)
        return result, missing

    def _of_failed(self, device: torch.device) -> tuple[Tensor, Tensor]:
        systems = send(torch.tensor(list(self._failed)), device)
        return systems, torch.stack([state for _, state in self._failed.values()])

    def _in_order(self, last: Tensor) -> tuple[Tensor, Tensor]:
        missing = torch.arange(len(self.times)).unsqueeze(1) >= self._next
        index, system = missing.nonzero(as_tuple=True)
        found = torch.cat([*self._found, index * self.systems + system])
        values = [*self._values, last[send(system, last.device)]] if len(index) else self._values
        result = torch.cat(values) if len(values) > 1 else values[0]
        order = found.argsort()
        if bool((order.diff() < 0).any()):
            result = result[send(order, result.device)]
        return result.view(len(self.times), self.systems, last.shape[1]), missing

    def _systems_of(self, step: Step) -> Tensor:
        return torch.arange(self.systems) if step.rows is None else step.rows

    def _within(self, step: Step) -> list[Points]:
        """The output times in (start, start + size], those at the end apart."""
        if isinstance(step.start, Tensor):
            return self._within_each(step)
        times, (a, b) = self.times, step.segment()
        begin, size = times.on_host(step)
        forward, systems = times.points[b] > times.points[a], self._systems_of(step)
        start = upto = int(self._next[systems[0]]) if len(systems) else 1
        ended = step.last and b < len(times)  # at an output time
        if ended:
            upto = b + 1
        while upto < len(times) and (
            (times.host[upto] <= begin + size) if forward else (times.host[upto] >= begin + size)
        ):
            upto += 1
        self._next[systems] = upto
        inside = upto - ended
        points = [Points(torch.arange(start, inside), None, end=False)] if inside > start else []
        return [*points, Points(torch.arange(inside, upto), None, end=True)] if upto > inside else points

    def _within_each(self, step: Step) -> list[Points]:
        times, rows = self.times, self._systems_of(step)
        begin, size = times.on_host(step)
        outputs, start = times.table[: len(times)], self._next[rows]
        forward = -1.0 if outputs[-1] < outputs[0] else 1.0
        upto = torch.searchsorted(forward * outputs, forward * (begin + size), right=True)
        ended = step.last & (torch.as_tensor(step.b) == len(times) - 1)
        upto = torch.maximum(torch.where(ended, len(times), upto), start)
        ended &= upto > start
        self._next[rows] = upto
        inside = (upto - ended.long() - start).clamp(min=0)
        position = torch.arange(len(rows)).repeat_interleave(inside)
        offset = torch.arange(len(position)) - (inside.cumsum(0) - inside)[position]
        points = [Points(start[position] + offset, position, end=False)] if len(position) else []
        position = ended.nonzero().squeeze(1)
        return [*points, Points(upto[position] - 1, position, end=True)] if len(position) else points


def interpolate(
    stepper: Stepper, stages: Stages, h: Length, before: Tensor, theta: Tensor, position: Tensor | None
) -> Tensor:
    """Dense output: y at fractions theta (points,) of a step, of its rows `position`: (points, unknowns).

    With None of all rows, (points, rows, unknowns).
    """
    weights = dense_weights(coefficients(stepper.tableau, before), theta)
    k = stages.rows(weights.shape[1])
    if position is None:
        return before + h * torch.einsum("ps,srd->prd", weights, k)
    length = h if isinstance(h, float) else h[position]
    return before[position] + length * torch.einsum("ps,spd->pd", weights, k[:, position])
