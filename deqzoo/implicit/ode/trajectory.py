"""What a solve leaves behind: its steps, its values at the output times, and states to start again from."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..pytree import Tensors
from ..sending import send
from .controllers import Step
from .interpolants import Kept

State = tuple[Tensor, Tensor | None]  # and f there, where it is known


@dataclasses.dataclass
class Points:
    """Output times within a step.

    Attributes:
        index: which output times, (points,).
        position: at which rows of the step, (points,); None: at all rows, which share their steps.
        end: they lie at the end of the step, where no interpolation is needed.
    """

    index: Tensor
    position: Tensor | None
    end: bool


@dataclasses.dataclass
class Trajectory:
    """What a solve leaves behind.

    Attributes:
        values: the state at the output times, (times, systems, unknowns).
        steps: what was done.
        points: the output times of each step.
        missing: (times, systems), true where a failed solve did not get to; there `values` has the last state. On the
            host, except of fixed steps, which are not watched: there `values` is what they computed.
        checkpoints: states before some of the steps, by the step's number; of an implicit method with f there, as its
            last stage had it: where f is stiff, f of a state that is right within the tolerance is far from it.
        last: the state after all steps, (systems, unknowns).
        kept: the dense output of some of the steps, where it is required.
        reached: of fixed steps, the number of output times before the first one with a value that is not finite,
            (systems,).
        failed: where `relevant` has found any, the systems that did not get to the end, on the host.
    """

    values: Tensor
    steps: list[Step]
    points: list[list[Points]]
    missing: Tensor
    checkpoints: dict[int, State]
    last: Tensor
    kept: Kept | None = None
    reached: Tensor | None = None
    failed: Tensor | None = None

    def others(self, systems: int, device: torch.device) -> Tensor | None:
        """Which systems have failed, (systems, 1); None: none. Near a pole what is computed again is not the same."""
        if self.failed is None:
            return None
        mask = torch.zeros(systems, 1, dtype=torch.bool)
        mask[self.failed] = True
        return send(mask, device)

    @property
    def outputs(self) -> Tensors:
        """`values`, and the tensors of the dense output, where it is required."""
        return (self.values,) if self.kept is None else (self.values, self.kept.before, self.kept.stages)

    def without_values(self) -> Trajectory:
        """The same, without what a graph would have to hold."""
        kept = None if self.kept is None else self.kept.without_values()
        return dataclasses.replace(self, values=self.values[:0], kept=kept)

    def watched(self) -> Trajectory:
        """Of fixed steps, with what they did not reach, found from the values, on their device."""
        finite = self.values.detach().isfinite().all(dim=2)
        reached = finite.long().cumprod(dim=0).sum(dim=0)
        missing = torch.arange(len(finite), device=finite.device).unsqueeze(1) >= reached
        return dataclasses.replace(self, reached=reached, missing=self.missing if self.kept is not None else missing)


class Checkpoints:
    """Keeps the state before every step, up to `limit` of them; then before every second, every fourth, ..."""

    def __init__(self, limit: int) -> None:
        self.limit, self.stride = limit, 1
        self.states: dict[int, State] = {}

    def offer(self, number: int, state: State) -> None:
        """The state before step `number`."""
        if self.limit and len(self.states) == self.limit and number % self.stride == 0:
            self.stride *= 2
            self.states = {n: s for n, s in self.states.items() if n % self.stride == 0}
        if self.limit and number % self.stride == 0:
            self.states[number] = state
