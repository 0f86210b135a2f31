"""What `fixed_point`, `root` and `argmin` are asked: a problem, how it is solved, and its solution with derivatives."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from .black_box import as_tensors, call_black_box
from .fixed_point_solvers import FixedPointSolver
from .implicit_function import ImplicitFunction
from .linear_solvers import LinearSolver
from .minimizers import CONSTRAINED_MINIMIZERS, MINIMIZERS, ConstrainedMinimizer, Minimizer
from .modes import no_derivatives
from .precision import finite_inputs
from .pytree import Ravel, map_tensors
from .solution import OnFailure, Solution, Status


@dataclasses.dataclass
class Problem:
    """A fixed point, a root or a minimiser to be found from `y0`, and its condition; what an adjoint is applied to.

    Args:
        name: "fixed_point", "root" or "argmin".
        f: `f(y, *args)`: the map, the residual or the objective.
        y0, args, solver, batch_dims, compact, preconditioner, on_failure: see `fixed_point`.
        conditions: `conditions(y, *args)`, zero at the solution: z - f(z), f, or the objective's gradient.
        linear_solver: of systems with the condition's Jacobian, if the adjoint names none.
        tags: what is known of that Jacobian.
        options: of the call of the solver beside those, such as the constraint of a minimiser.
    """

    name: Literal["fixed_point", "root", "argmin"]
    f: Callable[..., Any]
    y0: Any
    args: tuple[Any, ...]
    solver: Any
    conditions: Callable[..., Any]
    linear_solver: LinearSolver
    batch_dims: int = 0
    compact: bool = False
    tags: Sequence[str] = ()
    preconditioner: Callable[..., Any] | None = None
    on_failure: OnFailure = "warn"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def solve(self) -> Solution:
        """The solution, off the tape; it warns or raises where a system has failed."""
        return self.checked(self._by_callable() if self._is_foreign() else self.run_solver(self.f))

    def run_solver(self, f: Callable[..., Any], **options: Any) -> Solution:
        """By the solver of deqzoo that the problem has, on `f`, which may be wrapped; `options` go to the solver."""
        if self.compact:
            options["compact"] = True
        root, options = self.name != "fixed_point", {**self.options, **options}
        solution: Solution = self.solver(f, self.y0, *self.args, batch_dims=self.batch_dims, root=root, **options)
        return solution

    def checked(self, solution: Solution) -> Solution:
        """Warn or raise as asked, but where all steps are taken anyway: there the host does not wait to know."""
        never_looks = self.on_failure == "warn" and getattr(self.solver, "stop", None) == "never"
        if not (torch.compiler.is_compiling() or never_looks):
            solution.check(self.on_failure, self.name.replace("_", " "))
        return solution

    def attach(
        self,
        solution: Solution,
        linear_solver: LinearSolver | None = None,
        preconditioner: Callable[..., Any] | None = None,
    ) -> Any:
        """The value of `solution` with the derivatives that the condition gives it; None: as the problem has it."""
        implicit = ImplicitFunction(
            solve=_already_solved,
            conditions=self.conditions,
            linear_solver=self.linear_solver if linear_solver is None else linear_solver,
            batch_dims=self.batch_dims,
            tags=self.tags,
            preconditioner=self.preconditioner if preconditioner is None else preconditioner,
            on_failure=self.on_failure,
        )
        unreported = solution.nfe == 0  # by a callable that says nothing: look at the condition
        return implicit.differentiable(solution.value, *self.args, report=report_to(solution), look=unreported)

    def _is_foreign(self) -> bool:
        """Whether the solver is any callable; an error where it is none, or not for this problem."""
        solver = self.solver
        if isinstance(solver, FixedPointSolver):
            if isinstance(solver, Minimizer | ConstrainedMinimizer) != (self.name == "argmin"):
                hint = "minimises: pass it to argmin"
                if self.name == "argmin":
                    valid = sorted({**MINIMIZERS, **CONSTRAINED_MINIMIZERS})
                    hint = f"does not minimise; valid: {', '.join(valid)}, or any callable"
            elif isinstance(solver, Minimizer) and self.options:
                hint = (
                    f"takes no constraint and no penalty; valid: {', '.join(sorted(CONSTRAINED_MINIMIZERS))}, or any "
                    "callable"
                )
            else:
                return False
            raise TypeError(f"{type(solver).__name__} {hint}")
        if not callable(solver) or isinstance(solver, type | LinearSolver):
            raise TypeError(f"solver must be a solver or a function solver(f, y0, *args), got {solver!r}")
        if self.compact:
            raise ValueError(f"compact=True is for the solvers of deqzoo, not for {solver!r}")
        return True

    def _by_callable(self) -> Solution:
        """By any callable, which reports nothing: `attach` looks at the condition."""
        with no_derivatives():
            start, args = map_tensors(torch.Tensor.detach, (self.y0, self.args))
            value = call_black_box(
                lambda y0, args: as_tensors(self.solver(self.f, y0, *args), (y0, *args)), (start, args)
            )
            value = map_tensors(torch.clone, value)  # it may be a tensor of the caller's
            ravel = Ravel(value, self.batch_dims)
            finite = finite_inputs((value, start, args), ravel.batch_shape, ravel.device)
            zeros = torch.zeros(ravel.batch_shape, device=ravel.device)
            status = zeros.long()
            if finite is not None:
                status = torch.where(ravel.per_system(finite), status, Status.DIVERGED)
        return Solution(value, status, zeros, zeros.long(), nfe=0)


def report_to(solution: Solution) -> Callable[[Solution], None]:
    """What `ImplicitFunction.differentiable` calls with each adjoint solve: it stands in `solution.backward`."""
    held = weakref.ref(solution)  # a strong one would make a cycle of graph and solution: value, graph, report

    def report(backward: Solution) -> None:
        if (target := held()) is not None:
            target.backward = backward

    return report


def returned(value: Any, solution: Solution) -> tuple[Any, Solution]:
    """The differentiable `value`, NaN where a system has diverged; the solution keeps its last finite state there."""
    last, solution.value = solution.value, value
    if not solution.all_converged:
        value = solution.replace_failed(value)
        solution.value = solution.replace_failed(solution.value, last)
    return value, solution


def _already_solved(*args: Any) -> Any:
    raise AssertionError("the solution is handed to differentiable()")
