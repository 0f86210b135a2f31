"""Training stops at the first NaN or Inf, before it reaches the weights, and says where it came from."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from deqzoo.implicit import Status
from deqzoo.nn import SolverLayer


class NonFiniteError(RuntimeError):
    """A NaN or Inf in training; the message says in which batch, and whether input, solver or loss had it."""


def check_step(loss: Tensor, inputs: Tensor, layers: Sequence[SolverLayer], module: nn.Module, when: str) -> None:
    """Raise `NonFiniteError` if ``loss`` or ``inputs`` hold a NaN or Inf, with its cause.

    The inputs are looked at too: a solver keeps its last finite iterate, which would hide a fault in them.
    """
    if torch.isfinite(loss.detach()).all() & torch.isfinite(inputs).all():
        return
    bad_samples = torch.nonzero(~torch.isfinite(inputs).flatten(1).all(1)).flatten().tolist()
    if bad_samples:
        cause = f"the input: sample(s) {bad_samples[:8]} of the batch hold NaN or Inf; look at the data"
    elif bad := _non_finite(dict(module.named_parameters())):
        cause = f"the parameters: {bad[0]} is not finite"
    elif diverged := _diverged("forward", layers):
        cause = f"the solver: {diverged}; lower the learning rate"
    else:
        cause = "the loss: input, parameters and solutions are finite; lower the learning rate"
    raise NonFiniteError(f"Training stopped at {when}: the loss is {loss.item():.4g}. The fault is in {cause}.")


def check_gradients(module: nn.Module, layers: Sequence[SolverLayer], when: str) -> None:
    """Raise `NonFiniteError`, before the optimiser steps, if a gradient is not finite."""
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    if not gradients or torch.isfinite(nn.utils.get_total_norm(gradients.values())):
        return
    bad = _non_finite(gradients)
    where = f"that of {bad[0]} and {len(bad) - 1} more" if bad else "their norm overflows"
    cause = _diverged("forward", layers) or _diverged("backward", layers) or "the backward pass"
    raise NonFiniteError(
        f"Training stopped at {when}: the loss is finite, its gradient is not ({where}). The fault is in the "
        f"solver: {cause}; lower the learning rate, or choose another model.gradient."
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
