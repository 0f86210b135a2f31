"""The divergence of a vector field, div f = tr df/dy: exact, or by Hutchinson's estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import vjp

DIVERGENCES = ("exact", "gaussian", "rademacher")


def probes(y: Tensor, divergence: str = "exact", generator: Generator | None = None) -> Tensor:
    r"""Vectors v_k, with tr J = sum_k v_k . J v_k for a matrix J per sample: exactly, or on average.

    Args:
        y: (B, ...), of D values per sample.
        divergence: "exact": the D unit vectors; "gaussian" or "rademacher": one random vector per sample, with entries
            from N(0, 1), or +1 and -1. Of the two, the estimate by the latter has the smaller variance.
        generator: of the draws.

    Returns:
        (D, 1, ...), as the unit vectors are the same for all samples, or (1, B, ...).

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.

    >>> probes(torch.zeros(5, 2)).shape, probes(torch.zeros(5, 2), "rademacher").abs().sum().item()
    (torch.Size([2, 1, 2]), 10.0)
    """
    if divergence == "exact":
        size = math.prod(y.shape[1:])
        return torch.eye(size, dtype=y.dtype, device=y.device).view(size, 1, *y.shape[1:])
    place: Any = {"dtype": y.dtype, "generator": generator, "device": y.device}
    if divergence == "gaussian":
        return torch.randn(1, *y.shape, **place)
    if divergence == "rademacher":
        return torch.randint(0, 2, (1, *y.shape), **place) * 2 - 1
    raise ValueError(f"divergence={divergence} is unknown; valid are {', '.join(DIVERGENCES)}")


def jacobian_products(f: Any, t: Tensor, y: Tensor, v: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    r"""f(t, y, *args), and products of its Jacobian J = df/dy with vectors v, (K, B, ...) or (K, 1, ...): (K, B, ...).

    They are J v_k, by the field's own forward mode, where it is a module with a method `with_jvp`, and else v_k^T J, by
    reverse mode. Divergence and ||J||_F come from either.
    """
    if hasattr(f, "with_jvp"):
        value, products = f.with_jvp(t, y, v, *args)
        return value, products
    value, pull_back = vjp(lambda y: f(t, y, *args), y)[:2]
    return value, torch.stack([pull_back(row.expand_as(y))[0] for row in v])


class DensityDynamics(nn.Module):
    r"""Dynamics of a state and of what is integrated along its path.

        d state / dt = f(t, y),    d log p(y) / dt = -div f,    d kinetic / dt = |f|^2 / D,
        d jacobian / dt = ||df/dy||_F^2 / D

    The last three come from the same products with the Jacobian (so with random probes the last one is an estimate).

    Args:
        dynamics: `f(t, y, *args)` of y's shape, (B, ...).

    Source: Chen et al., "Neural Ordinary Differential Equations", 2018; Grathwohl et al., "FFJORD", 2019; Finlay et
    al., "How to Train Your Neural ODE", 2020.

    >>> linear = DensityDynamics(lambda t, y: y @ torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    >>> state = {"y": torch.ones(1, 2), "log_density": torch.zeros(1)}
    >>> linear(torch.zeros(()), state, probes(state["y"]))["log_density"]
    tensor([-5.])
    """

    def __init__(self, dynamics: Any) -> None:
        super().__init__()
        self.dynamics = dynamics

    def forward(self, t: Tensor, state: dict[str, Tensor], v: Tensor, *args: Any) -> dict[str, Tensor]:
        """d/dt of the entries that the state has: "y" (B, ...), "log_density", "kinetic", "jacobian" (B,)."""
        y = state["y"]
        if len(state) == 1:
            return {"y": self.dynamics(t, y, *args)}
        dy, products = jacobian_products(self.dynamics, t, y, v, *args)
        rates = {"y": dy}
        if "log_density" in state:
            rates["log_density"] = -torch.linalg.vecdot(v.flatten(2), products.flatten(2)).sum(0)
        if "kinetic" in state:
            rates["kinetic"] = dy.square().flatten(1).mean(1)
        if "jacobian" in state:
            rates["jacobian"] = products.square().flatten(2).sum((0, 2)) / dy[0].numel()
        return rates


def start(y: Tensor, integrals: Sequence[str]) -> dict[str, Tensor]:
    """The state of `DensityDynamics` at y (B, ...), with these integrals at zero."""
    return {"y": y, **{name: y.new_zeros(len(y)) for name in integrals}}
