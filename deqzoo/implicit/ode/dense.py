"""A solution that can be evaluated anywhere, also after the solve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ..api import named
from ..by_name import instance
from ..modes import eager, full_precision, host_flags, in_transform
from ..pytree import Ravel, Tensors, map_tensors
from ..solution import FAILURES, OnFailure, Solution
from .adjoints import ODE_ADJOINTS, Discrete, ODEAdjoint
from .interpolants import Interpolants, Keep, Kept
from .odeint import Solve, as_times
from .solvers import ODE_SOLVERS, Adaptive, ODESolver, Tsit5, jumps_of
from .torchdiffeq_backend import TorchDiffEq

_BEYOND = 16  # roundings of time by which a query may lie outside of the span


@overload
def odeint_dense(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    *args: Any,
    return_solution: Literal[False] = False,
    **options: Any,
) -> DenseSolution: ...


@overload
def odeint_dense(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    *args: Any,
    return_solution: Literal[True],
    **options: Any,
) -> tuple[DenseSolution, Solution]: ...


@eager
def odeint_dense(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    *args: Any,
    solver: ODESolver | str | None = None,
    adjoint: ODEAdjoint | str | None = None,
    batch_dims: int = 0,
    compact: bool = False,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """The solution of dy/dt = f(t, y, *args), y(t[0]) = y0, as a function of time, from t[0] to t[-1].

    Between the steps it is the method's dense output: of order 4 for `Tsit5` and `Dopri5`, 7 for `Dopri8`, and at most
    3, by cubic Hermite interpolation, for the others. Evaluating it costs no evaluation of f. It is differentiable in
    y0, t, `args` and what else f reads, and in the time at which it is evaluated: to any order, and under `torch.func`.
    However often it was evaluated, there is one backward pass through the steps.

    Memory: the state and the stages of every step: (stages + 1) times the state, times the number of steps, from the
    solve on until the function is dropped; 8 states per step for `Tsit5`. Where the times are known beforehand,
    `odeint` needs the states at these times alone.

    Args:
        f, y0, args, solver, batch_dims, compact, on_failure: as for `odeint`.
        t: (n,), the span, from t[0] to t[-1]; times between them matter for methods with fixed steps alone, as for
            `odeint`.
        adjoint: `Discrete()` by default; `Direct`.
        return_solution: also return the `Solution`, whose value is y at the times t.
        kwargs: go to f by name, as for `odeint`.

    Returns:
        A `DenseSolution`, or (it, solution).

    Source: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", 1993, section II.6.

    >>> y = odeint_dense(lambda t, y: torch.stack([y[1], -y[0]]), torch.tensor([0.0, 1.0]), [0.0, 3.0])
    >>> y(torch.tensor([0.5, 1.5]))[:, 0]  # sin(t)
    tensor([0.4794, 0.9975])
    >>> y.derivative(1.0)[0]  # cos(t)
    tensor(0.5403)
    """
    f, args = named(f, args, kwargs, odeint_dense)
    solver = Tsit5() if solver is None else instance("ODE solver", ODE_SOLVERS, solver)
    adjoint = Discrete() if adjoint is None else instance("adjoint", ODE_ADJOINTS, adjoint)
    check_options("odeint_dense", solver, adjoint, batch_dims, compact, on_failure)
    solve = Solve(f, y0, args, solver, adjoint, batch_dims, compact, dense=True)
    solve.keep = Keep()
    ravel = solve.field.ravel
    t, solve.field.time_dtype = as_times(t, ravel.dtype, ravel.device)
    t = t.to(ravel.device)  # what is evaluated later is a function of the ends
    if len(t) < 2:
        raise ValueError("a dense solution needs a span: t must hold two times or more")
    with full_precision(ravel.device.type):
        values, *dense = solve(ravel.flatten(y0), t)
    solution = solve.to_solution()
    solution.check(on_failure, "odeint_dense")
    solve.on_failure = on_failure
    solution.value = ravel.unflatten_many(values)
    result = DenseSolution(solver, ravel, t, values[0], solve.kept, tuple(dense), batch_dims)
    return (result, solution) if return_solution else result


def check_options(what: str, solver: Any, adjoint: Any, batch_dims: int, compact: bool, on_failure: str) -> None:
    """Raise for options that do not go with dense output."""
    if on_failure not in FAILURES:
        raise ValueError(f"on_failure must be one of {', '.join(FAILURES)}, got {on_failure!r}")
    if batch_dims not in (0, 1):
        raise ValueError(f"batch_dims must be 0 or 1, got {batch_dims}")
    if isinstance(solver, TorchDiffEq) or not getattr(adjoint, "dense", True):
        raise ValueError(
            f"{what} needs the dense output of its steps: use a solver such as Tsit5(), and Discrete() or Direct()"
        )
    if not isinstance(solver, ODESolver) or not isinstance(adjoint, ODEAdjoint):
        raise TypeError("solver must be an ODESolver such as Tsit5(), adjoint one of Discrete() and Direct()")
    if compact and not (batch_dims == 1 and isinstance(solver, Adaptive)):
        raise ValueError("compact=True needs batch_dims=1 and an adaptive solver: else all samples take the same steps")


class DenseSolution:
    """y(t), made by `odeint_dense`.

    Attributes:
        t0, t1: the span, as given.
    """

    def __init__(
        self,
        solver: ODESolver,
        ravel: Ravel,
        t: Tensor,
        start: Tensor,
        kept: Kept | None,
        dense: Tensors,
        batch_dims: int,
    ) -> None:
        self.t0, self.t1 = t[0], t[-1]
        self._ravel, self._each = ravel, batch_dims == 1
        count, systems = len(start), torch.empty(0, dtype=torch.long)
        begin = length = t[:0]
        before, stages = dense or (start[:0], start.new_empty(0, len(solver.tableau.dense), start.shape[1]))
        if kept is not None:
            (begin, length), systems = kept.times(torch.cat([t, t.new_tensor(jumps_of(solver))])), kept.systems
        idle = torch.tensor(sorted(set(range(count)) - set(systems.tolist())), dtype=torch.long)
        if len(idle):  # their first step failed
            systems = torch.cat([systems, idle])
            begin, length = (torch.cat([x, self.t0.expand(len(idle))]) for x in (begin, length))
            before, stages = (
                torch.cat([x, x.new_full((len(idle), *x.shape[1:]), torch.nan)]) for x in (before, stages)
            )
        self._interpolants = Interpolants(solver.tableau, before, stages, begin, length)
        table = _rows_of_systems(systems, count)
        self._table = table.to(start.device)
        self._forward = host_flags(self.t1 > self.t0)[0][0]
        ends = (begin + length).detach()[table.to(t.device)]
        self._ends = self._progress(ends).contiguous()  # (systems, most steps), ascending

    def __call__(self, t: Tensor | float, *, each: bool = False) -> Any:
        """y at times t, of any shape: leaves (*t.shape, *shape).

        Args:
            t: times in the span; NaN comes back where a failed solve did not get to.
            each: with batch_dims=1: t has the batch as its last axis, a time for each sample, (..., batch).
        """
        return self._evaluate(self._interpolants, t, each)

    def derivative(self, t: Tensor | float, *, each: bool = False) -> Any:
        """dy/dt at times t, as for `__call__`: of the interpolant, and so near to f(t, y(t)) as its order allows."""
        return self._evaluate(self._interpolants.slope, t, each)

    @property
    def times(self) -> Tensor:
        """Ends of the steps, (steps,); with batch_dims=1 (batch, steps), the last one again where there are fewer."""
        return self._progress(self._ends if self._each else self._ends[0])

    def _evaluate(self, at: Callable[[Tensor, Tensor], Tensor], t: Tensor | float, each: bool) -> Any:
        t = torch.as_tensor(t, dtype=None if isinstance(t, Tensor) else self.t0.dtype, device=self.t0.device)
        t = t if t.is_floating_point() else t.to(self.t0.dtype)
        systems, shape = len(self._table), t.shape
        if each and not (self._each and shape[-1:] == (systems,)):
            raise ValueError(
                f"each=True needs batch_dims=1 and times (..., {systems}) for the samples, got shape {tuple(shape)}"
            )
        self._check_inside(t)
        times = t.reshape(-1, systems) if each else t.reshape(-1, 1).expand(-1, systems)
        number, missing = self._locate(times.detach())
        index = self._table.gather(1, number.T).T
        values = at(index.reshape(-1), times.reshape(-1)).view(*times.shape, self._interpolants.before.shape[1])
        values = torch.where(missing.unsqueeze(2), torch.nan, values)
        result, outer = self._ravel.unflatten_many(values), shape[:-1] if each else shape
        return map_tensors(lambda leaf: leaf.reshape((*outer, *leaf.shape[1:])), result)

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """For times (points, systems): the number of the step of each system, and whether it did not get there."""
        at = self._progress(t).T.contiguous()
        ends = self._ends.to(at.dtype)
        search = _count_below if in_transform() else torch.searchsorted
        number = search(ends, at)
        slack = _BEYOND * torch.finfo(at.dtype).eps * ends.abs().amax(dim=1, keepdim=True)
        missing = at > ends[:, -1:] + slack
        return number.clamp(max=ends.shape[1] - 1).T, missing.T

    def _check_inside(self, t: Tensor) -> None:
        t0, t1, t = (x.detach() for x in (self.t0, self.t1, t))
        low, high = torch.minimum(t0, t1), torch.maximum(t0, t1)
        slack = _BEYOND * max(torch.finfo(x.dtype).eps for x in (t, t0)) * torch.maximum(low.abs(), high.abs())
        if not host_flags(((t >= low - slack) & (t <= high + slack)).all())[0][1]:
            span = "the span of the solve" if in_transform() else f"the span from {t0.item():g} to {t1.item():g}"
            raise ValueError(f"a dense solution can be evaluated inside {span} alone; solve for a longer one")

    def _progress(self, t: Tensor) -> Tensor:
        """Times in the order of the solve; its own inverse."""
        return t if self._forward else -t


def _rows_of_systems(systems: Tensor, count: int) -> Tensor:
    """Rows of each system in their order, (systems, most rows); the last one again where there are fewer."""
    if not count:
        return torch.zeros(0, 1, dtype=torch.long)
    of_each = systems.argsort(stable=True).split(systems.bincount(minlength=count).tolist())
    most = max(map(len, of_each))
    return torch.stack([torch.cat([rows, rows[-1:].expand(most - len(rows))]) for rows in of_each])


def _count_below(ends: Tensor, at: Tensor) -> Tensor:
    """As `torch.searchsorted`, for transforms, which have no rule for that."""
    return (at.unsqueeze(2) > ends.unsqueeze(1)).sum(dim=2)
