"""The functions that most users call: `fixed_point`, `root`, `argmin`, and solvers and gradients by name."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .black_box import as_tensors, call_black_box
from .bridge import ImplicitFunction
from .by_name import make
from .fixed_point_solvers import Anderson, Broyden, FixedPointSolver, ForwardBackward, PeacemanRachford, Picard
from .gradients import Gradient, Implicit, OneStep, Phantom, Unrolled
from .linear_solvers import CG, GMRES, MINRES, BiCGSTAB, Dense, LinearSolver, Neumann, NormalCG
from .minimizers import LBFGS, GradientDescent, Minimizer, NewtonCG, TrustRegion
from .minimizers import gradient as gradient_of
from .modes import eager, host_flags, in_transform, needs_derivative, no_derivatives
from .precision import finite_inputs
from .pytree import Ravel, map_tensors, tensor_leaves, with_keywords
from .root_solvers import Newton, NewtonKrylov
from .solution import OnFailure, Solution, Status

SOLVERS: dict[str, type[FixedPointSolver]] = {
    "anderson": Anderson,
    "broyden": Broyden,
    "newton": Newton,
    "newton_krylov": NewtonKrylov,
    "picard": Picard,
}
SPLITTINGS: dict[str, type[FixedPointSolver]] = {  # of monotone problems
    "forward_backward": ForwardBackward,
    "peaceman_rachford": PeacemanRachford,
}
MINIMIZERS: dict[str, type[Minimizer]] = {
    "gradient_descent": GradientDescent,
    "lbfgs": LBFGS,
    "newton_cg": NewtonCG,
    "trust_region": TrustRegion,
}
LINEAR_SOLVERS: dict[str, type[LinearSolver]] = {
    "bicgstab": BiCGSTAB,
    "cg": CG,
    "dense": Dense,
    "gmres": GMRES,
    "minres": MINRES,
    "neumann": Neumann,
    "normal_cg": NormalCG,
}
GRADIENTS: dict[str, type[Gradient]] = {
    "implicit": Implicit,
    "one_step": OneStep,
    "phantom": Phantom,
    "unrolled": Unrolled,
}


def fixed_point(
    f: Callable[..., Any],
    z0: Any,
    *args: Any,
    solver: FixedPointSolver | Callable[..., Any] | None = None,
    gradient: Gradient | None = None,
    batch_dims: int = 0,
    compact: bool = False,
    preconditioner: Callable[..., Any] | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """The fixed point z = f(z, *args), differentiable in `args` and in whatever else f reads.

        dz/dargs = (I - df/dz)^-1 df/dargs

    Args:
        f: `f(z, *args)`, of the structure and shapes of z.
        z0: start, a tensor or a pytree of tensors; no gradient flows to it.
        solver: `Anderson()` by default; `Picard`, `Broyden`, `Newton`, `NewtonKrylov`; `ForwardBackward` and
            `PeacemanRachford` for an f that is a `MonotoneMap`; or any callable `solver(f, z0, *args) -> z`, NumPy
            inside allowed.
        gradient: `Implicit()` by default; `Phantom`, `OneStep`, `Unrolled`.
        batch_dims: 0: all of z is one system; 1: each leading index is a system of its own.
        compact: with batch_dims=1: while the solver iterates, call f for the samples alone that are not done. Then f
            must treat each sample by itself, and tensors among `args` with the batch as leading axis are cut likewise
            (captured ones are not). One more host read a stop check; not under `vmap`, where it changes nothing.
        preconditioner: see `ImplicitFunction`, for A = I - df/dz.
        on_failure: "ignore", "warn" or "raise" when a solve, forward or adjoint, does not converge. A warning is given
            once per line that calls. With a solver's `stop="never"` only "raise" looks at the status, which makes the
            host wait.
        return_solution: also return the `Solution`.
        kwargs: go to f by name; tensors among them get gradients, as those among `args` do.

    Returns:
        z, or (z, solution). A system that has diverged (`Status.DIVERGED`) is NaN in z, also where the input is not
        finite: if z0, or a tensor among `args` with the batch axes as leading ones, holds a NaN or Inf for it. Its last
        finite iterate stands in `solution.value`. A mask with -inf is no input: let f capture it. What has stalled or
        run out of steps is returned as it is.

    >>> a = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    >>> z = fixed_point(lambda z, a: torch.cos(a * z), torch.zeros((), dtype=torch.float64), a)
    >>> z.backward()  # dz/da = -z sin(a z) / (1 + a sin(a z))
    >>> z, a.grad
    (tensor(0.9004, dtype=torch.float64, grad_fn=<_AttachBackward>), tensor(-0.3218, dtype=torch.float64))
    """
    f, args = named(f, args, kwargs, fixed_point)
    solver = Anderson() if solver is None else solver
    gradient = Implicit() if gradient is None else gradient
    # `torch.compile` takes the solve as a whole where nothing in it asks the host.
    plain = isinstance(gradient, Phantom | OneStep) or not needs_derivative()
    traceable = plain and getattr(solver, "stop", None) == "never"
    return (_fixed_point if traceable else _fixed_point_eagerly)(
        f, z0, args, solver, gradient, batch_dims, compact, preconditioner, on_failure, return_solution
    )


def _fixed_point(
    f: Callable[..., Any],
    z0: Any,
    args: tuple[Any, ...],
    solver: Any,
    gradient: Gradient,
    batch_dims: int,
    compact: bool,
    preconditioner: Callable[..., Any] | None,
    on_failure: OnFailure,
    return_solution: bool,
) -> Any:
    if isinstance(gradient, Unrolled):
        solution = _unroll(f, z0, args, solver, gradient, batch_dims, compact)
    else:
        solution = _solve("fixed_point", solver, f, z0, args, batch_dims, compact)
    _check(solution, on_failure, "fixed point", solver)
    inverse, solution.inverse = solution.inverse, None  # it holds the solver's memory
    if isinstance(gradient, Implicit) and needs_derivative():
        if gradient.share_inverse:
            preconditioner = _shared(inverse, solver, preconditioner, Ravel(solution.value, batch_dims))
        implicit = ImplicitFunction(
            solve=_already_solved,
            conditions=lambda z, *args: _difference(z, f(z, *args)),
            linear_solver=gradient.linear_solver,
            batch_dims=batch_dims,
            preconditioner=preconditioner,
            on_failure=on_failure,
        )
        return _finish(implicit, solution, args, return_solution)
    value = solution.value
    if isinstance(gradient, Phantom | OneStep):
        steps, damping = (1, 1.0) if isinstance(gradient, OneStep) else (gradient.steps, gradient.damping)
        for _ in range(steps if needs_derivative() else 0):
            value = _mix(value, f(value, *args), damping)
    elif not isinstance(gradient, Implicit | Unrolled):
        raise TypeError(f"gradient must be Implicit, Phantom, OneStep or Unrolled, got {type(gradient).__name__}")
    return _returned(solution, value, return_solution)


@eager
def _fixed_point_eagerly(*arguments: Any) -> Any:
    return _fixed_point(*arguments)


@eager
def root(
    f: Callable[..., Any],
    y0: Any,
    *args: Any,
    solver: FixedPointSolver | Callable[..., Any] | None = None,
    linear_solver: LinearSolver | None = None,
    batch_dims: int = 0,
    compact: bool = False,
    tags: Sequence[str] = (),
    preconditioner: Callable[..., Any] | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """A root f(y, *args) = 0, differentiable in `args` and in whatever else f reads.

        dy/dargs = -(df/dy)^-1 df/dargs

    Args:
        f: `f(y, *args)`, of the structure and shapes of y.
        y0: start, a tensor or a pytree of tensors; no gradient flows to it.
        solver: `Newton()` by default; `NewtonKrylov`, `Broyden`, `Anderson`, `Picard` (the last three take the Jacobian
            for near I); or any callable `solver(f, y0, *args) -> y`, NumPy inside allowed.
        linear_solver: for derivatives, `GMRES()` by default.
        tags: what is known of df/dy: "symmetric", "positive_definite".

    Other arguments and the result are those of `fixed_point`.

    >>> a = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    >>> y = root(lambda y, a: y**3 - a, torch.ones((), dtype=torch.float64), a)
    >>> torch.autograd.grad(y, a)[0]  # 1 / (3 y^2)
    tensor(0.0833, dtype=torch.float64)
    """
    f, args = named(f, args, kwargs, root)
    solution = _solve("root", Newton() if solver is None else solver, f, y0, args, batch_dims, compact)
    solution.inverse = None
    _check(solution, on_failure, "root", solver)
    implicit = ImplicitFunction(
        solve=_already_solved,
        conditions=f,
        linear_solver=linear_solver,
        batch_dims=batch_dims,
        tags=tags,
        preconditioner=preconditioner,
        on_failure=on_failure,
    )
    return _finish(implicit, solution, args, return_solution)


@eager
def argmin(
    objective: Callable[..., Any],
    y0: Any,
    *args: Any,
    solver: Minimizer | Callable[..., Any] | None = None,
    linear_solver: LinearSolver | None = None,
    has_aux: bool = False,
    batch_dims: int = 0,
    preconditioner: Callable[..., Any] | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """A local minimiser of `objective(y, *args)` over y, differentiable in `args` and whatever else it reads.

        dy/dargs = -H^-1 d(grad)/dargs,    H the Hessian in y, grad the gradient in y

    Args:
        objective: `objective(y, *args)`, a scalar; with `batch_dims=1` one value per system, shape (systems,).
        y0: start, a tensor or a pytree of tensors; no gradient flows to it.
        solver: `LBFGS()` by default; `TrustRegion`, `NewtonCG`, `GradientDescent`; or any callable
            `solver(objective, y0, *args) -> y`, SciPy inside allowed.
        linear_solver: for derivatives, `CG()` by default: H is positive definite at a regular minimum, and CG reports
            where it is not. `MINRES()` and `Dense()` also take an indefinite H, `Damped(CG(), damping)` makes it
            definite.
        has_aux: `objective` returns (value, aux); argmin then returns (y, aux) or (y, aux, solution), with the aux of
            one more evaluation at y, which has derivatives.

    Other arguments and the result are those of `fixed_point`.

    >>> x = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    >>> mean = argmin(lambda y, x: ((y - x) ** 2).sum(), torch.zeros((), dtype=torch.float64), x)
    >>> torch.autograd.grad(mean, x)[0]
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    both, args = named(objective, args, kwargs, argmin)
    objective = (lambda *given: both(*given)[0]) if has_aux else both
    solution = _solve("argmin", LBFGS() if solver is None else solver, objective, y0, args, batch_dims)
    _check(solution, on_failure, "argmin", solver)
    implicit = ImplicitFunction(
        solve=_already_solved,
        conditions=lambda y, *args: gradient_of(objective, y, *args, batch_dims=batch_dims)[0],
        linear_solver=CG() if linear_solver is None else linear_solver,
        batch_dims=batch_dims,
        tags=("symmetric", "positive_definite"),
        preconditioner=preconditioner,
        on_failure=on_failure,
    )
    y = _finish(implicit, solution, args, False)
    found = (y, both(y, *args)[1]) if has_aux else (y,)
    found = (*found, solution) if return_solution else found
    return found if len(found) > 1 else y


def make_solver(name: str, **options: Any) -> Any:
    """A solver by name: fixed-point and root solvers, minimisers, linear solvers. An error lists what is valid.

    >>> make_solver("picard", tol=1e-3, damping=0.5).damping
    0.5
    """
    return make("solver", {**SOLVERS, **SPLITTINGS, **MINIMIZERS, **LINEAR_SOLVERS}, name, options)


def make_gradient(name: str, **options: Any) -> Gradient:
    """A gradient by name; `linear_solver` may be a solver or the name of one.

    >>> make_gradient("implicit", linear_solver="neumann").linear_solver
    Neumann(tol=None, k=10, damping=1.0)
    """
    if isinstance(options.get("linear_solver"), str):
        options["linear_solver"] = make("linear solver", LINEAR_SOLVERS, options["linear_solver"], {})
    made: Gradient = make("gradient", GRADIENTS, name, options)
    return made


def named(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], function: Callable[..., Any]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """`f` and its arguments, those given by name last; an error where `f` takes no such name."""
    if not kwargs:
        return f, args
    try:
        of_f = inspect.signature(f.forward if isinstance(f, torch.nn.Module) else f).parameters
    except (TypeError, ValueError):  # of a builtin
        of_f = None
    if (
        of_f is not None
        and not any(p.kind is p.VAR_KEYWORD for p in of_f.values())
        and (bad := set(kwargs) - set(of_f))
    ):
        options = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        raise TypeError(
            f"neither {function.__name__} nor the function that it was given takes {min(bad)!r}; the options of "
            f"{function.__name__} are {', '.join(options)}"
        )
    return with_keywords(f, tuple(kwargs)), (*args, *kwargs.values())


def _already_solved(*args: Any) -> Any:
    raise AssertionError("the solution is handed to differentiable()")


def _solve(
    problem: Literal["fixed_point", "root", "argmin"],
    solver: Callable[..., Any],
    f: Callable[..., Any],
    y0: Any,
    args: tuple[Any, ...],
    batch_dims: int,
    compact: bool = False,
) -> Solution:
    """Run a solver of ours, or any callable, which reports nothing: `_finish` looks at the conditions."""
    if isinstance(solver, FixedPointSolver):
        if isinstance(solver, Minimizer) != (problem == "argmin"):
            mend = "minimises: pass it to argmin"
            if problem == "argmin":
                mend = f"does not minimise; valid: {', '.join(sorted(MINIMIZERS))}, or any callable"
            raise TypeError(f"{type(solver).__name__} {mend}")
        options = {"compact": True} if compact else {}
        return solver(f, y0, *args, batch_dims=batch_dims, root=problem != "fixed_point", **options)
    if not callable(solver) or isinstance(solver, type | LinearSolver):
        raise TypeError(f"solver must be a solver or a function solver(f, y0, *args), got {solver!r}")
    if compact:
        raise ValueError(f"compact=True is for the solvers of deqzoo, not for {solver!r}")
    with no_derivatives():
        start, rest = map_tensors(torch.Tensor.detach, (y0, args))
        value = call_black_box(lambda y0, args: as_tensors(solver(f, y0, *args), (y0, *args)), (start, rest))
        ravel = Ravel(value, batch_dims)
        finite = finite_inputs((value, start, rest), ravel.batch_shape, ravel.device)
        zeros = torch.zeros(ravel.batch_shape, device=ravel.device)
        status = zeros.long()
        if finite is not None:
            status = torch.where(ravel.per_system(finite), status, Status.DIVERGED)
    return Solution(value, status, zeros, zeros.long(), nfe=0)


def _unroll(
    f: Callable[..., Any],
    z0: Any,
    args: tuple[Any, ...],
    solver: Any,
    gradient: Unrolled,
    batch_dims: int,
    compact: bool,
) -> Solution:
    """The solver's own iterations, recorded."""
    if not isinstance(solver, Picard):
        raise TypeError(f"Unrolled differentiates plain iteration: pass solver=Picard(...), not {solver!r}")

    def step(z: Any, *args: Any) -> Any:
        return (
            checkpoint(f, z, *args, use_reentrant=False) if gradient.checkpoint and not in_transform() else f(z, *args)
        )

    solution = solver(step, z0, *args, batch_dims=batch_dims, record=True, compact=compact)
    idle = (solution.steps == 0) & (solution.status != Status.DIVERGED)
    if needs_derivative() and (solution.steps.numel() == 0 or host_flags(idle)[0][0]):
        # A system that met the stop rule at its start has nothing on the tape: it takes one step there.
        value, moved = solution.value, step(solution.value, *args)
        ravel = Ravel(value, batch_dims)
        chosen = [
            torch.where(idle.reshape(idle.shape + (1,) * (a.dim() - idle.dim())), b.to(a.dtype), a)
            for a, b in zip(tensor_leaves(value), ravel.leaves(moved), strict=True)
        ]
        solution.value, solution.nfe = ravel.restore(chosen), solution.nfe + 1
    return solution


def _check(solution: Solution, on_failure: OnFailure, what: str, solver: Any) -> None:
    """Warn or raise as asked, but where all steps are taken anyway: there the host does not wait to know."""
    if torch.compiler.is_compiling() or (on_failure == "warn" and getattr(solver, "stop", None) == "never"):
        return
    solution.check(on_failure, what)


def _returned(solution: Solution, value: Any, return_solution: bool) -> Any:
    """The differentiable `value`, NaN where a system has diverged; the solution keeps its last finite state there."""
    last, solution.value = solution.value, value
    if not solution.all_converged:
        value = solution.replace_failed(value)
        solution.value = solution.replace_failed(solution.value, last)
    return (value, solution) if return_solution else value


def _finish(implicit: ImplicitFunction, solution: Solution, args: tuple[Any, ...], return_solution: bool) -> Any:
    held = weakref.ref(solution)  # a strong reference would tie the graph into a cycle: solution, value, graph, report

    def report(backward: Solution) -> None:
        target = held()
        if target is not None:
            target.backward = backward

    look = solution.nfe == 0  # a solver that reports nothing
    value = implicit.differentiable(solution.value, *args, report=report, look=look)
    return _returned(solution, value, return_solution)


def _shared(
    inverse: Callable[[Tensor], Tensor] | None, solver: Any, own: Callable[..., Any] | None, ravel: Ravel
) -> Callable[..., Any] | None:
    """The solver's inverse Jacobian as a preconditioner; None where the solve ended before it had any."""
    if own is not None or not isinstance(solver, Broyden):
        raise TypeError(f"share_inverse needs solver=Broyden(...) and no preconditioner, got {solver!r} and {own!r}")
    return None if inverse is None else lambda v, *_: ravel.unflatten(inverse(ravel.flatten(v)))


def _difference(z: Any, fz: Any) -> Any:
    ravel = Ravel(z)
    return ravel.restore([a - b for a, b in zip(tensor_leaves(z), ravel.leaves(fz), strict=True)])


def _mix(z: Any, fz: Any, damping: float) -> Any:
    ravel = Ravel(z)
    pairs = zip(tensor_leaves(z), ravel.leaves(fz), strict=True)
    return ravel.restore([a + damping * (b - a) if damping != 1 else b.to(a.dtype) for a, b in pairs])
