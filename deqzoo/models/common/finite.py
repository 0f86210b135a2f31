"""Training skips steps with a NaN or Inf, before they reach the weights, and ends with the cause where they go on.

On the CPU, and where the optimiser cannot skip by itself, the host asks before each step. Elsewhere it would have to
wait for the device each time: there the optimiser leaves all as it was where a flag on the device says so, and the host
hears of it with the next step. From then on it asks before each, until one is good, and so knows the cause when it
matters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import Status
from deqzoo.nn import SolverLayer

MOST = 10  # steps skipped in a row: then the fault is not that of a batch
UNTOLD = "A NaN or Inf was in the loss, the inputs or the gradients"  # where the host heard of it later


class NonFiniteError(RuntimeError):
    """A NaN or Inf in training; the message says in which batch, and whether input, solver or loss had it."""


class Skips:
    """Counts the training steps that are skipped, and ends the training after `MOST` in a row.

    Attributes:
        total: steps skipped so far.
        row: of those, the latest without a good one between them.
        fault: what is known to be wrong with the present step; None: nothing.
        latest: what was wrong with the latest step.
    """

    def __init__(self) -> None:
        self.total = self.row = 0
        self.fault: str | None = None
        self.latest: str | None = None

    def end_step(self, when: str) -> None:
        """Count the step that ends; `NonFiniteError` with its fault if it is one too many."""
        self.latest, self.fault = self.fault, None
        if self.latest is None:
            self.row = 0
            return
        self.row, self.total = self.row + 1, self.total + 1
        if self.row >= MOST:
            self.stop(when)

    def stop(self, when: str) -> None:
        """Raise the `NonFiniteError` of the latest step."""
        raise NonFiniteError(f"Training stopped at {when}: {self.row} steps in a row were skipped. {self.latest}.")

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"total": self.total, "row": self.row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.total, self.row = state["total"], state["row"]


def all_finite(loss: Tensor, inputs: Tensor) -> Tensor:
    """Whether a loss and its inputs hold no NaN or Inf, on their device: what a network makes of a NaN need not be one.

    >>> all_finite(torch.tensor(1.0), torch.tensor([[0.0, torch.nan]]))
    tensor(False)
    """
    return torch.isfinite(loss.detach()).all() & torch.isfinite(inputs).all()


def finite_gradients(module: nn.Module) -> list[Tensor]:
    """Whether the gradients hold no NaN or Inf, on their device; empty where there are no gradients."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return [torch.isfinite(nn.utils.get_total_norm(gradients))] if gradients else []


def fault_of_step(loss: Tensor, inputs: Tensor, layers: Sequence[SolverLayer], module: nn.Module) -> str | None:
    """Where a NaN or Inf in ``loss`` or ``inputs`` comes from; None if there is none."""
    if all_finite(loss, inputs):
        return None
    bad_samples = torch.nonzero(~torch.isfinite(inputs).flatten(1).all(1)).flatten().tolist()
    if bad_samples:
        cause = f"the input: sample(s) {bad_samples[:8]} of the batch hold NaN or Inf; look at the data"
    elif bad := _non_finite(dict(module.named_parameters())):
        cause = f"the parameters: {bad[0]} is not finite"
    elif diverged := _diverged("forward", layers):
        cause = f"the solver: {diverged}; lower the learning rate"
    else:
        cause = "the loss: input, parameters and solutions are finite; lower the learning rate"
    return f"The loss is {loss.item():.4g}. The fault is in {cause}"


def fault_of_gradients(module: nn.Module, layers: Sequence[SolverLayer]) -> str | None:
    """Where a NaN or Inf in a gradient comes from; None if there is none."""
    if all(finite_gradients(module)):
        return None
    bad = _non_finite({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    where = f"that of {bad[0]} and {len(bad) - 1} more" if bad else "their norm overflows"
    cause = _diverged("forward", layers) or _diverged("backward", layers) or "the backward pass"
    return (
        f"The loss is finite, its gradient is not ({where}). The fault is in the solver: {cause}; lower the learning "
        "rate, or choose another model.adjoint"
    )


def _diverged(which: str, layers: Sequence[SolverLayer]) -> str | None:
    found = []
    for index, layer in enumerate(layers):
        solution = layer.solution if which == "forward" or layer.solution is None else layer.solution.backward
        if solution is not None and (count := int((solution.status == Status.DIVERGED).sum())):
            samples = f" on {count} sample(s)" if solution.status.ndim else ""
            found.append(f"of {type(layer).__name__} layer {index}{samples}")
    return f"the {which} solve diverged {', '.join(found)}" if found else None


def _non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name, value in tensors.items() if not torch.isfinite(value).all()]
