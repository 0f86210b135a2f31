"""The solvers of torchdiffeq, behind the same face; imported where they are chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from ..pytree import Ravel
from ..solution import Solution, Status
from .adjoints import Adjoint, Backsolve, Direct
from .solvers import OdeSolver
from .tableaus import EULER, Tableau


@dataclasses.dataclass(frozen=True)
class TorchDiffEq(OdeSolver):
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
    adjoint: Adjoint | None,
    batch_dims: int,
) -> tuple[Any, Solution]:
    """As `odeint`, by torchdiffeq."""
    import torchdiffeq

    if batch_dims:
        raise ValueError("torchdiffeq has one step size for the whole batch: use batch_dims=0")
    ravel = Ravel(y0, 0)
    t = torch.as_tensor(t, dtype=None if isinstance(t, torch.Tensor) else ravel.dtype, device=ravel.device)
    field = _Field(f, args, ravel)
    solution = Solution(None, torch.tensor(int(Status.CONVERGED)), torch.tensor(0.0), torch.tensor(0), 0)
    start = ravel.flatten(y0).squeeze(0)
    options = {"method": solver.method, "rtol": solver.rtol, "atol": solver.atol, "options": solver.options}
    if adjoint is None or isinstance(adjoint, Direct):
        values = torchdiffeq.odeint(field, start, t, **options)
    elif isinstance(adjoint, Backsolve):
        own = {"adjoint_rtol": adjoint.rtol, "adjoint_atol": adjoint.atol}
        own |= {"adjoint_options": {"norm": "seminorm"}} if adjoint.seminorm else {}
        given = tuple(x for x in field.parameters() if x.requires_grad)
        values = torchdiffeq.odeint_adjoint(field, start, t, adjoint_params=given, **options, **own)
    else:
        raise ValueError("torchdiffeq has the adjoints Direct() and Backsolve()")
    solution.nfe = field.calls
    solution.value = ravel.unflatten_many(values.unsqueeze(1))
    return solution.value, solution


class _Field(torch.nn.Module):
    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], ravel: Ravel) -> None:
        super().__init__()
        self.f, self.args, self.ravel, self.calls = f, args, ravel, 0

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """f on vectors."""
        self.calls += 1
        return self.ravel.flatten(self.f(t, self.ravel.unflatten(y.unsqueeze(0)), *self.args)).squeeze(0)
