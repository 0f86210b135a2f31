"""The steps that the outputs of a solve depend on: of a system that failed, those up to its last output.

What it computed after that may be near a pole, or no number: taken again it may be something else, and zero times
infinity spoils the derivatives in all that systems share.
"""

from __future__ import annotations

import bisect
import dataclasses

import torch
from torch import Tensor

from ..private_api import below_all_transforms
from .controllers import Step
from .interpolants import Kept
from .trajectory import Points, State, Trajectory


def relevant(trajectory: Trajectory) -> Trajectory:
    """The trajectory without the other steps, and those that are left without the rows that do not matter."""
    with below_all_transforms():
        missing = trajectory.missing.cpu()
        if not missing.any():
            return trajectory
        needed = _rows_needed(trajectory, missing)
        numbers = [number for number, rows in enumerate(needed) if len(rows)]
        steps, points = [], []
        for number in numbers:
            step, of_step, rows = trajectory.steps[number], trajectory.points[number], needed[number]
            cut = len(rows) < (missing.shape[1] if step.rows is None else len(step.rows))
            steps.append(_only(step, rows) if cut else step)
            points.append([_of_some(p, rows) for p in of_step] if cut else of_step)
        return dataclasses.replace(
            trajectory,
            steps=steps,
            points=points,
            checkpoints=_renumbered(trajectory.checkpoints, numbers),
            kept=_kept(trajectory.kept, numbers, needed),
            failed=missing.any(dim=0).nonzero().squeeze(1),
        )


def _rows_needed(trajectory: Trajectory, missing: Tensor) -> list[Tensor]:
    """Of each step, the rows (positions) whose systems have an output, or dense output that is kept, then or later."""
    reached = (~missing).sum(dim=0)
    everybody = torch.arange(len(reached))
    kept = {} if trajectory.kept is None else dict(trajectory.kept.where)
    needed = torch.zeros(len(reached), dtype=torch.bool)
    result = []
    for number in reversed(range(len(trajectory.steps))):
        step = trajectory.steps[number]
        systems = everybody if step.rows is None else step.rows
        for points in trajectory.points[number]:
            first, those = points.index, systems if points.position is None else systems[points.position]
            first = first.amin() if points.position is None else first
            needed[those[reached[those] > first]] = True
        if number in kept:
            needed[systems if kept[number] is None else systems[kept[number]]] = True
        result.append(needed[systems].nonzero().squeeze(1))
    return result[::-1]


def _only(step: Step, rows: Tensor) -> Step:
    """The step of some of its rows, which may share their size."""
    if isinstance(step.size, Tensor):
        return step.only(rows)
    return dataclasses.replace(step, rows=rows)


def _of_some(points: Points, rows: Tensor) -> Points:
    """The points of some rows of a step."""
    if points.position is None:
        return points
    return dataclasses.replace(points, position=torch.searchsorted(rows, points.position))


def _renumbered(checkpoints: dict[int, State], numbers: list[int]) -> dict[int, State]:
    """States before the steps that are left, which were those of these numbers."""
    of_new = {bisect.bisect_left(numbers, number): state for number, state in checkpoints.items()}
    return {number: state for number, state in of_new.items() if number < len(numbers)}


def _kept(kept: Kept | None, numbers: list[int], needed: list[Tensor]) -> Kept | None:
    if kept is None:
        return None
    new = {number: i for i, number in enumerate(numbers)}
    where = [
        (new[number], None if rows is None else torch.searchsorted(needed[number], rows)) for number, rows in kept.where
    ]
    return dataclasses.replace(kept, where=where)
