"""The solvers of torchdiffeq, behind the same face; imported where they are chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ..solution import Solution, Status
from .adjoints import Backsolve, Direct, ODEAdjoint
from .field import UserField
from .solvers import ODESolver
from .tableaus import EULER, Tableau


@dataclasses.dataclass(frozen=True)
class TorchDiffEq(ODESolver):
    """A solver of the package torchdiffeq, for comparison. `adjoint` is `Direct()` by default, or `Backsolve`.

    First-order gradients alone, as that package has them; a failure is an AssertionError of its own.

    Args:
        method: torchdiffeq's name of the method.
        rtol, atol: tolerances.
        options: passed on, such as {"step_size": 0.1}.

    Source: Chen, "torchdiffeq", 2018, https://github.com/rtqichen/torchdiffeq.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-6
    options: dict[str, Any] | None = None

    tableau: ClassVar[Tableau] = EULER  # unused: the method is the package's own


def solve_by_torchdiffeq(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    args: tuple[Any, ...],
    solver: TorchDiffEq,
    adjoint: ODEAdjoint | None,
    batch_dims: int,
) -> tuple[Any, Solution]:
    """As `odeint`, by torchdiffeq."""
    import torchdiffeq

    if batch_dims:
        raise ValueError("torchdiffeq has one step size for the whole batch: use batch_dims=0")
    field = UserField(f, y0, args, systems=False, each_time=False, compact=False)
    ravel = field.ravel
    t = torch.as_tensor(t, dtype=None if isinstance(t, torch.Tensor) else ravel.dtype, device=ravel.device)
    start = ravel.flatten(y0)
    counted = _Counted(field)
    options = {"method": solver.method, "rtol": solver.rtol, "atol": solver.atol, "options": solver.options}
    if adjoint is None or isinstance(adjoint, Direct):
        values = torchdiffeq.odeint(counted, start, t, **options)
    elif isinstance(adjoint, Backsolve):
        if torch.is_grad_enabled():
            field.lift(t[0].detach(), start)
        own: dict[str, Any] = {"adjoint_rtol": adjoint.rtol, "adjoint_atol": adjoint.atol}
        if adjoint.seminorm:
            own["adjoint_options"] = {"norm": "seminorm"}
        read = tuple(x for x in field.inputs if x.requires_grad)
        values = torchdiffeq.odeint_adjoint(counted, start, t, adjoint_params=read, **options, **own)
    else:
        raise ValueError("torchdiffeq has the adjoints Direct() and Backsolve()")
    result = ravel.unflatten_many(values)
    zero = torch.tensor(0)
    return result, Solution(result, torch.tensor(int(Status.CONVERGED)), torch.tensor(torch.nan), zero, counted.calls)


class _Counted(torch.nn.Module):
    """The field as torchdiffeq takes it, its calls counted."""

    def __init__(self, field: UserField) -> None:
        super().__init__()
        self.field, self.calls = field, 0

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """dy/dt."""
        self.calls += 1
        return self.field(t, y, None)
