"""`odeint`: the solution of an ordinary differential equation as a differentiable function."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor

from ..api import named
from ..by_name import instance
from ..modes import eager, full_precision, in_transform, needs_derivative, no_derivatives
from ..pytree import Tensors, tensor_leaves
from ..sending import send
from ..solution import FAILURES, OnFailure, Solution, Status
from .adjoints import ODE_ADJOINTS, Discrete, ODEAdjoint
from .controllers import RecordedSteps, StepController, equal_steps, equal_steps_each
from .field import UserField
from .integrate import integrate
from .interpolants import Keep, Kept
from .relevant import relevant
from .replay import raise_late
from .sample_times import in_shared_time
from .solvers import ODE_SOLVERS, Adaptive, FixedStep, ODESolver, Tsit5, is_splitting, jumps_of
from .splitting import check_pair, check_separable
from .step_control import ControllerPerSystem, SharedController
from .steps import Stepper
from .times import Times, are_moving
from .tolerances import with_matrices
from .torchdiffeq_backend import TorchDiffEq, solve_by_torchdiffeq
from .traced import is_traceable, solve_traced
from .trajectory import Trajectory

T = TypeVar("T")


@overload
def odeint(
    f: Callable[..., Any],
    y0: T,
    t: Tensor | Sequence[float],
    *args: Any,
    return_solution: Literal[False] = False,
    **options: Any,
) -> T: ...


@overload
def odeint(
    f: Callable[..., Any],
    y0: T,
    t: Tensor | Sequence[float],
    *args: Any,
    return_solution: Literal[True],
    **options: Any,
) -> tuple[T, Solution]: ...


def odeint(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    *args: Any,
    solver: ODESolver | str | None = None,
    adjoint: ODEAdjoint | str | None = None,
    batch_dims: int = 0,
    shared_steps: bool = False,
    compact: bool = False,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """The solution of dy/dt = f(t, y, *args), y(t[0]) = y0, at the times t.

    Differentiable in y0, t, `args`, and in captured tensors and module parameters that f reads; to any order, in
    forward mode and under `torch.func`. (Inside transforms, and in derivatives of gradients, the steps are on the tape,
    whatever the adjoint.)

    Args:
        f: `f(t, y, *args)`, of the structure and shapes of y; t is a 0-dim tensor, with batch_dims=1 a vector (batch,).
        y0: a tensor or a pytree of tensors, real or complex. Complex ones are solved for as pairs of real numbers, to
            each of which the tolerances apply; f gets and returns complex tensors and need not be analytic, and
            gradients are those of PyTorch's convention, dL/dx + i dL/dy of x + i y.
        t: output times, (n,), increasing or decreasing. Those inside a step of an adaptive method come by
            interpolation and cost no evaluation of f. With batch_dims=1 they may be those of each sample, (n, batch),
            each in its own direction; then steps end at each of them. (Methods for stiff problems look at what they
            interpolate, for two evaluations per step with output times inside: see `Rodas5P`.)
        solver: `Tsit5()` by default; `Dopri5`, `Bosh3`, `Dopri8`; for stiff problems `Rodas5P` (up to some ten unknowns
            per system), `Kvaerno5` (more of them), `Kvaerno3` (loose tolerances); with fixed steps `Euler`, `Midpoint`,
            `Heun`, `RK4`, and for separable Hamiltonians `Leapfrog`; `TorchDiffEq` for those of torchdiffeq. Or the
            name of one ("dopri5"), with default options.
        adjoint: `Discrete()` by default; `Backsolve`, `Direct`, `Reversible` (of `Leapfrog`), or the name of one
            ("direct"). (Gradients through the jumps of a relaxation oscillation want a much finer tolerance than the
            states: see `Discrete`.)
        batch_dims: 0: one sequence of steps for all of y, its error the root mean square over all unknowns: where some
            samples are harder than others, the easy ones get more steps than they need and the hard ones, hidden in
            the mean, an error above the tolerance. 1: each leading index has steps of its own, and its own error within
            the tolerance; costs more evaluations of f, of which each counts for fewer samples. At loose tolerances the
            batch-wide steps are the more accurate ones on average, by accident: the hardest sample sets them.
        shared_steps: with batch_dims=1: one sequence of steps for all samples, as with batch_dims=0, t a 0-dim tensor;
            but a sample that fails is left behind alone, and does not change the others: one that is not finite at the
            start at once, one with which the step shrinks to nothing then. Where max_steps is used up, those that keep
            the step below a tenth of what the others need are left behind, and the others go on with max_steps more.
            Implicit methods have a Jacobian of each sample's own.
        compact: with batch_dims=1: call f with the samples alone that are not done; then f must treat each sample by
            itself, and tensors among `args` with the batch as leading axis are cut likewise (captured ones are not).
        on_failure: "ignore", "warn" or "raise" when the end of the span is not reached: too many steps (MAX_STEPS), a
            step too small for the precision of time (STALLED), a value that is not finite (DIVERGED); with fixed steps
            the last alone. Output times that a system did not reach are NaN, and their gradient is zero.
        return_solution: also return the `Solution`: its `value` has the last finite state in place of NaN; its `steps`
            are those accepted, and `rejected` the others; `residual` is the error of the last step over the tolerance.
        kwargs: go to f by name; tensors among them get gradients, as those among `args` do.

    Returns:
        y at the times t, with leaves (n, *shape), or (y, solution).

    Source: Hairer, Norsett, Wanner, "Solving Ordinary Differential Equations I", 1993; Chen, Rubanova, Bettencourt,
    Duvenaud, "Neural Ordinary Differential Equations", 2018.

    >>> a = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    >>> y = odeint(lambda t, y, a: a * y, torch.ones((), dtype=torch.float64), [0.0, 1.0], a, solver=Tsit5(rtol=1e-9))
    >>> y[-1].backward()
    >>> y.detach(), a.grad  # exp(a), exp(a)
    (tensor([1.0000, 0.3679], dtype=torch.float64), tensor(0.3679, dtype=torch.float64))
    """
    f, args = named(f, args, kwargs, odeint)
    solver = Tsit5() if solver is None else instance("ODE solver", ODE_SOLVERS, solver)
    chosen: ODEAdjoint | None = instance("adjoint", ODE_ADJOINTS, adjoint)
    if on_failure not in FAILURES:
        raise ValueError(f"on_failure must be one of {', '.join(FAILURES)}, got {on_failure!r}")
    if batch_dims not in (0, 1):
        raise ValueError(f"batch_dims must be 0 or 1, got {batch_dims}")
    each_time = batch_dims == 1 and not shared_steps
    if torch.compiler.is_compiling() and not compact and is_traceable(t, solver, chosen):
        result, solution = solve_traced(f, y0, t, args, solver, batch_dims, each_time)  # type: ignore[arg-type]
    else:
        how: dict[str, Any] = {"shared_steps": shared_steps, "compact": compact, "on_failure": on_failure}
        result, solution = _solved(f, y0, t, args, solver, chosen, batch_dims, **how)
    return (result, solution) if return_solution else result


@eager
def _solved(
    f: Callable[..., Any],
    y0: Any,
    t: Tensor | Sequence[float],
    args: tuple[Any, ...],
    solver: Any,
    chosen: ODEAdjoint | None,
    batch_dims: int,
    *,
    shared_steps: bool,
    compact: bool,
    on_failure: OnFailure,
) -> tuple[Any, Solution]:
    if isinstance(solver, TorchDiffEq):
        return solve_by_torchdiffeq(f, y0, t, args, solver, chosen, batch_dims)
    chosen = Discrete() if chosen is None else chosen
    if not isinstance(solver, ODESolver) or not isinstance(chosen, ODEAdjoint):
        raise TypeError(
            "solver must be an ODESolver such as Tsit5(), adjoint one of Discrete(), Backsolve() and Direct(), or its "
            f"name, got {solver!r} and {chosen!r}"
        )
    if compact and not (batch_dims == 1 and isinstance(solver, Adaptive)):
        raise ValueError("compact=True needs batch_dims=1 and an adaptive solver: else all samples take the same steps")
    if shared_steps and (batch_dims != 1 or compact):
        raise ValueError("shared_steps=True needs batch_dims=1 and compact=False: separate systems that share steps")
    if shared_steps and not any(leaf.numel() for leaf in tensor_leaves(y0)):
        batch_dims, shared_steps = 0, False  # nothing to solve for, and nobody to fail
    if isinstance(t, Tensor) and t.dim() == 2 and batch_dims == 1 and not shared_steps:
        systems = len(tensor_leaves(y0)[0])
        f, t, table, solver = in_shared_time(f, t.to(tensor_leaves(y0)[0].device), solver, systems)
        args = (*args, table)
    solve = Solve(f, y0, args, solver, chosen, batch_dims, compact, shared_steps=shared_steps)
    ravel = solve.field.ravel
    t, solve.field.time_dtype = as_times(t, ravel.dtype, ravel.device)
    with full_precision(ravel.device.type):
        solve.check_separable(ravel.flatten(y0), t)
        (values,) = solve(ravel.flatten(y0), t)
    solution = solve.to_solution()
    solution.check(on_failure, "odeint")
    solve.on_failure, solve.whole = on_failure, bool(solution.all_converged)
    solution.value = result = ravel.unflatten_many(values)
    if solve.missing is not None:
        result = ravel.unflatten_many(torch.where(solve.missing.unsqueeze(2), torch.nan, values))
        solution.value = ravel.unflatten_many(_last_finite(values, solve.missing))
    return result, solution


class Solve:
    """One solve: what the autograd functions need to know of it.

    Args:
        f, y0, args, solver, adjoint, batch_dims, compact: as for `odeint`.
        dense: `keep`, which is to be set, keeps dense output; with batch_dims=1 all steps are those of each sample.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        y0: Any,
        args: tuple[Any, ...],
        solver: ODESolver,
        adjoint: ODEAdjoint,
        batch_dims: int,
        compact: bool,
        dense: bool = False,
        shared_steps: bool = False,
    ) -> None:
        if is_splitting(solver):
            check_pair(y0, type(solver).__name__)
            if dense:
                raise ValueError(f"{type(solver).__name__} has no dense output: give the output times to odeint")
        self.adjoint, self.compact = adjoint, compact
        self.keep: Keep | None = None
        self.kept: Kept | None = None
        separate, self.shared = batch_dims == 1, shared_steps
        self.each = separate and not shared_steps and (isinstance(solver, Adaptive) or dense)
        each_time = separate and not shared_steps
        self.field = UserField(f, y0, args, systems=separate, each_time=each_time, compact=compact)
        self.solver = with_matrices(solver, self.field.ravel)
        self.missing: Tensor | None = None  # outputs that were not reached, (times, systems)
        self.batch_shape = self.field.ravel.shapes[0][:batch_dims]
        self.first: Tensor | None = None
        self.slope: Tensor | None = None  # f at the end, which `Backsolve` compares
        self.found = 0  # evaluations of f before the first step
        self.on_failure: OnFailure = "ignore"
        self.whole = False  # known to have reached the end of the span
        self._solution: Solution | None = None
        self._reported: Callable[[], Solution | None] = lambda: None

    def __call__(self, y: Tensor, t: Tensor) -> Tensors:
        """The states at the times t, (times, systems, unknowns), and the tensors of the dense output that is kept."""
        if not needs_derivative():
            return self.plain(y, t)
        if in_transform():
            return self.on_tape(y, t)
        return self.adjoint.apply(self, y, t)

    def check_separable(self, y: Tensor, t: Tensor) -> None:
        """Raise where a splitting method is given an f that it is not for, see `Leapfrog`."""
        if not (is_splitting(self.solver) and getattr(self.solver, "check", False)) or in_transform():
            return
        with no_derivatives():
            check_separable(self.field, self.time(t), y.detach(), self.field.eps, type(self.solver).__name__)
        self.found = 3

    def depends(self, y: Tensor, t: Tensor) -> bool:
        """Find what f reads. Returns whether that, y or t requires a gradient."""
        self.first = self.field.lift(self.time(t), y)
        self.found += 1
        return any(x.requires_grad for x in (y, t, *self.field.inputs))

    def plain(self, y: Tensor, t: Tensor) -> Tensors:
        """The outputs without derivatives."""
        with no_derivatives():
            return self.run(y, t).outputs

    def off_tape(self, y: Tensor, t: Tensor) -> Trajectory:
        """Solve for an autograd function to come: inside of it, the modes of `lifting` that are active here are off."""
        with no_derivatives():
            return self.run(y.detach(), t)

    def on_tape(self, y: Tensor, t: Tensor) -> Tensors:
        """The outputs, each step on the tape."""
        trajectory = self.run(y, t, taped=True)
        if in_transform() or self.keep is not None or not trajectory.missing.any():
            return trajectory.outputs
        # Once more without what systems that failed have done after their last outputs, which has no derivatives.
        stepper, times = Stepper(self.solver, self.field, taped=True), self._times(t, y)
        again = integrate(stepper, y, times, RecordedSteps(relevant(trajectory).steps)).values
        return (torch.where(send(trajectory.missing.unsqueeze(2), y.device), trajectory.values.detach(), again),)

    def run(self, y: Tensor, t: Tensor, taped: bool = False) -> Trajectory:
        """Solve from y."""
        raise_late()
        stepper = Stepper(self.solver, self.field, taped)
        times = self._times(t, y)
        controller = self.controller(times, len(y))
        checkpoints = 0 if taped else self.adjoint.checkpoints
        trajectory = integrate(stepper, y, times, controller, first=self.first, checkpoints=checkpoints, keep=self.keep)
        self.kept = None if trajectory.kept is None else trajectory.kept.without_values()
        status, accepted, rejected = controller.report()
        if trajectory.reached is not None:
            self.missing = send(trajectory.missing, y.device)
            status = torch.where(trajectory.reached < len(times), int(Status.DIVERGED), int(Status.CONVERGED))
        elif trajectory.missing.any():
            self.missing = send(trajectory.missing, y.device)
        good = None if trajectory.reached is not None else bool((torch.as_tensor(status) == Status.CONVERGED).all())
        numbers = status, accepted, rejected, controller.last_error
        status, accepted, rejected, error = (self._per_system(x, y) for x in numbers)
        calls = stepper.calls + self.found
        self._solution = Solution(None, status, error, accepted, calls, rejected=rejected, all_converged=good)
        return trajectory

    def to_solution(self) -> Solution:
        """The solution; it is held weakly from now on, as its value hangs on the graph that holds this object."""
        solution, self._solution = self._solution, None
        assert solution is not None
        self._reported = weakref.ref(solution)
        return solution

    def controller(self, times: Times, systems: int) -> StepController:
        """What says which steps to take."""
        host, solver = times.host, self.solver
        if isinstance(solver, FixedStep):
            if self.each:
                return equal_steps_each(solver, host, times.eps, systems)
            return equal_steps(solver, host, times.eps)
        assert isinstance(solver, Adaptive)
        if self.each:
            return ControllerPerSystem(solver, host, systems, self.compact)
        return SharedController(solver, host, systems=systems if self.shared else None)

    def report(self, calls: int, status: Status = Status.CONVERGED) -> None:
        """Note what a backward pass cost."""
        ended = torch.full(self.batch_shape, int(status), device=self.field.ravel.device)
        backward = Solution(None, ended, torch.zeros_like(ended, dtype=torch.float), torch.zeros_like(ended), calls)
        backward.all_converged = status == Status.CONVERGED
        if (forward := self._reported()) is not None:
            forward.backward = backward
        backward.check(self.on_failure, "adjoint solve")

    def _times(self, t: Tensor, y: Tensor) -> Times:
        return Times(t, y, jumps_of(self.solver), self.field.time_dtype)

    def _per_system(self, value: Any, y: Tensor) -> Tensor:
        value = send(value, y.device) if isinstance(value, Tensor) else torch.full((), value, device=y.device)
        return value.expand(self.batch_shape) if value.dim() == 0 else value.reshape(self.batch_shape)

    def time(self, t: Tensor) -> Tensor:
        """The first of the times t, as f gets it."""
        start, device = t[0].detach().to(self.field.time_dtype), self.field.ravel.device
        if start.device != device:  # the times of most solves are on the host; this makes no copy that waits
            start = torch.full((), start.item(), dtype=start.dtype, device=device)
        return start.expand(self.field.ravel.systems) if self.each else start


def _last_finite(values: Tensor, missing: Tensor) -> Tensor:
    """The values, with the last one that was reached in place of each that is missing (or the start)."""
    values = values.detach()
    reached = (~missing).sum(dim=0).sub(1).clamp(min=0)
    last = values.gather(0, reached.reshape(1, -1, 1).expand(1, -1, values.shape[2]))
    return torch.where(missing.unsqueeze(2) & ~values.isfinite(), last, values)


def as_times(t: Tensor | Sequence[float], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, torch.dtype]:
    """The output times, and the dtype of the times that f gets: its own, where a floating-point tensor has more.

    On the host, where steps are chosen, unless derivatives go to them.
    """
    given = isinstance(t, Tensor) and t.is_floating_point()
    t = t if isinstance(t, Tensor) else torch.as_tensor(t, dtype=torch.float64)
    if t.dim() != 1 or not len(t):
        raise ValueError(
            f"t must hold one or more output times, shape (n,), got shape {tuple(t.shape)}; those of each sample, "
            "(n, batch), are for odeint with batch_dims=1 and shared_steps=False"
        )
    t, own = (t, torch.promote_types(t.dtype, dtype)) if given else (t.to("cpu", torch.float64), dtype)
    return t.to(device) if are_moving(t) else t.detach().cpu(), own
