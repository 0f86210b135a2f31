"""The functions that most users call: `fixed_point`, `root`, `argmin`, and solvers and adjoints by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

import torch

from .adjoints import EQUATION_ADJOINTS, Adjoint, EquationAdjoint, Implicit
from .by_name import instance, make, renamed
from .conditions import mirror_descent, proximal_gradient, stationarity
from .fixed_point_solvers import FIXED_POINT_SOLVERS, SPLITTINGS, Anderson, FixedPointSolver
from .linear_solvers import CG, GMRES, LINEAR_SOLVERS, LinearSolver
from .minimizers import (
    CONSTRAINED_MINIMIZERS,
    LBFGS,
    MINIMIZERS,
    ConstrainedMinimizer,
    Minimizer,
    MirrorDescent,
    ProximalGradient,
)
from .minimizers.constrained import one_of
from .modes import eager, in_transform, needs_derivative
from .problem import Problem, returned
from .pytree import Ravel, tensor_leaves, with_keywords
from .root_solvers import ROOT_SOLVERS, Newton
from .solution import OnFailure, Solution

SOLVERS: dict[str, type[FixedPointSolver]] = {**FIXED_POINT_SOLVERS, **ROOT_SOLVERS}  # of `fixed_point` and `root`

T = TypeVar("T")


@overload
def fixed_point(
    f: Callable[..., T], z0: T, *args: Any, return_solution: Literal[False] = False, **options: Any
) -> T: ...


@overload
def fixed_point(
    f: Callable[..., T], z0: T, *args: Any, return_solution: Literal[True], **options: Any
) -> tuple[T, Solution]: ...


def fixed_point(
    f: Callable[..., Any],
    z0: Any,
    *args: Any,
    solver: FixedPointSolver | str | Callable[..., Any] | None = None,
    adjoint: EquationAdjoint | str | None = None,
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
        z0: start, a tensor or a pytree of tensors; no gradient flows to it, but by `Unrolled` and
            `ReversibleIteration`, which differentiate the steps.
        solver: `Anderson()` by default; `Picard`, `Broyden`, `Newton`, `NewtonKrylov`; `ForwardBackward` and
            `PeacemanRachford` for an f that is a `MonotoneMap`; or the name of one ("picard"), with its default
            options; or any callable `solver(f, z0, *args) -> z`, NumPy inside allowed.
        adjoint: how it is differentiated, `Implicit()` by default; `Phantom`, `OneStep`, `Unrolled`,
            `ReversibleIteration`, or the name of one ("one_step"); or an `EquationAdjoint` of your own.
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
    adjoint = renamed(kwargs, "gradient", "adjoint", Adjoint, adjoint)
    f, args = named(f, args, kwargs, fixed_point)
    problem = Problem(
        name="fixed_point",
        f=f,
        y0=z0,
        args=args,
        solver=Anderson() if solver is None else instance("solver", {**SOLVERS, **SPLITTINGS}, solver),
        conditions=lambda z, *args: _difference(z, f(z, *args)),
        linear_solver=GMRES(),
        batch_dims=batch_dims,
        compact=compact,
        preconditioner=preconditioner,
        on_failure=on_failure,
    )
    chosen = _chosen(adjoint, problem)
    # `torch.compile` takes the solve as a whole where nothing in it asks the host.
    fixed = getattr(problem.solver, "stop", None) == "never" and preconditioner is None
    traceable = fixed and (not needs_derivative() or (chosen.compiles and not in_transform()))
    z, solution = (_run if traceable else _run_eagerly)(chosen, problem)
    return (z, solution) if return_solution else z


@overload
def root(f: Callable[..., Any], y0: T, *args: Any, return_solution: Literal[False] = False, **options: Any) -> T: ...


@overload
def root(
    f: Callable[..., Any], y0: T, *args: Any, return_solution: Literal[True], **options: Any
) -> tuple[T, Solution]: ...


@eager
def root(
    f: Callable[..., Any],
    y0: Any,
    *args: Any,
    solver: FixedPointSolver | str | Callable[..., Any] | None = None,
    adjoint: EquationAdjoint | str | None = None,
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
            for near I), or the name of one; `Bisection` and `Chandrupatla` for one unknown between two ends; or any
            callable `solver(f, y0, *args) -> y`, NumPy inside allowed.
        adjoint: `Implicit()` by default; its linear solver is `GMRES()` unless it names one.
        tags: what is known of df/dy: "symmetric", "positive_definite".

    Other arguments and the result are those of `fixed_point`.

    >>> a = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    >>> y = root(lambda y, a: y**3 - a, torch.ones((), dtype=torch.float64), a)
    >>> torch.autograd.grad(y, a)[0]  # 1 / (3 y^2)
    tensor(0.0833, dtype=torch.float64)
    """
    adjoint = _of_linear_solver(kwargs, adjoint)
    f, args = named(f, args, kwargs, root)
    problem = Problem(
        name="root",
        f=f,
        y0=y0,
        args=args,
        solver=Newton() if solver is None else instance("solver", SOLVERS, solver),
        conditions=f,
        linear_solver=GMRES(),
        batch_dims=batch_dims,
        compact=compact,
        tags=tags,
        preconditioner=preconditioner,
        on_failure=on_failure,
    )
    y, solution = _run(_chosen(adjoint, problem), problem)
    return (y, solution) if return_solution else y


@overload
def argmin(
    objective: Callable[..., Any],
    y0: T,
    *args: Any,
    has_aux: Literal[False] = False,
    return_solution: Literal[False] = False,
    **options: Any,
) -> T: ...


@overload
def argmin(
    objective: Callable[..., Any],
    y0: T,
    *args: Any,
    has_aux: Literal[False] = False,
    return_solution: Literal[True],
    **options: Any,
) -> tuple[T, Solution]: ...


@overload
def argmin(
    objective: Callable[..., Any],
    y0: T,
    *args: Any,
    has_aux: Literal[True],
    return_solution: Literal[False] = False,
    **options: Any,
) -> tuple[T, Any]: ...


@overload
def argmin(
    objective: Callable[..., Any],
    y0: T,
    *args: Any,
    has_aux: Literal[True],
    return_solution: Literal[True],
    **options: Any,
) -> tuple[T, Any, Solution]: ...


@eager
def argmin(
    objective: Callable[..., Any],
    y0: Any,
    *args: Any,
    constraint: Any = None,
    penalty: Any = None,
    solver: Minimizer | ConstrainedMinimizer | str | Callable[..., Any] | None = None,
    adjoint: EquationAdjoint | str | None = None,
    has_aux: bool = False,
    batch_dims: int = 0,
    preconditioner: Callable[..., Any] | None = None,
    on_failure: OnFailure = "warn",
    return_solution: bool = False,
    **kwargs: Any,
) -> Any:
    """A local minimiser of `objective(y, *args)` over y, differentiable in `args` and whatever else it reads.

        dy/dargs = -H^-1 d(grad)/dargs,    H the Hessian in y, grad the gradient in y

    On a set, or with a penalty h on top of the objective, the minimiser is that of both, and the derivative that of

        y = prox(y - grad(y)),    prox the projection onto the set, or the proximal operator of h,

    which is that along the face of the set, or with the zeros of y fixed, where y lies.

    Args:
        objective: `objective(y, *args)`, a scalar; with `batch_dims=1` one value per system, shape (systems,).
        y0: start, a tensor or a pytree of tensors; no gradient flows to it.
        constraint: a convex set such as `Simplex()`, which each tensor of y lies in; or a pytree of sets like y (None:
            free). Tensors among its parameters get gradients. y0 is projected onto it.
        penalty: likewise a convex penalty such as `L1(strength)`, which need not be smooth.
        solver: `LBFGS()` by default; `TrustRegion`, `NewtonCG`, `GradientDescent`, or the name of one; or any callable
            `solver(objective, y0, *args) -> y`, SciPy inside allowed. With a constraint or penalty
            `ProximalGradient()` by default; `ProjectedNewton` between bounds, `MirrorDescent` on the simplex.
        adjoint: `Implicit()` by default, by the linear solver `CG()`: H is positive definite at a regular minimum, and
            CG reports where it is not. `Implicit(MINRES())` and `Implicit(Dense())` also take an indefinite H,
            `Implicit(Damped(CG(), damping))` makes it definite. With a constraint or penalty it is by `GMRES()`.
        has_aux: `objective` returns (value, aux); argmin then returns (y, aux) or (y, aux, solution), with the aux of
            one more evaluation at y, which has derivatives.

    Other arguments and the result are those of `fixed_point`.

    >>> x = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    >>> mean = argmin(lambda y, x: ((y - x) ** 2).sum(), torch.zeros((), dtype=torch.float64), x)
    >>> torch.autograd.grad(mean, x)[0]
    tensor([0.5000, 0.5000], dtype=torch.float64)

    The nearest point of the simplex:

    >>> from deqzoo.implicit import Simplex
    >>> argmin(lambda y, x: ((y - x) ** 2).sum(), torch.zeros(2).double(), x, constraint=Simplex()).detach()
    tensor([0., 1.], dtype=torch.float64)
    """
    adjoint = _of_linear_solver(kwargs, adjoint)
    both, args = named(objective, args, kwargs, argmin)
    problem = _minimum(
        (lambda *given: both(*given)[0]) if has_aux else both,
        one_of(constraint, penalty),
        instance("solver", {**MINIMIZERS, **CONSTRAINED_MINIMIZERS}, solver),
        y0=y0,
        args=args,
        batch_dims=batch_dims,
        preconditioner=preconditioner,
        on_failure=on_failure,
    )
    y, solution = _run(_chosen(adjoint, problem), problem)
    found = (y, both(y, *args)[1]) if has_aux else (y,)
    found = (*found, solution) if return_solution else found
    return found if len(found) > 1 else y


def _minimum(objective: Callable[..., Any], part: Any, solver: Any, **options: Any) -> Problem:
    """The problem of `argmin`, with a set or penalty `part` or none, and by the solver that is given or the default."""
    batch_dims = options["batch_dims"]
    if part is None:
        solver = LBFGS() if solver is None else solver
        conditions = stationarity(objective, batch_dims=batch_dims)
        options["tags"] = ("symmetric", "positive_definite")
        return Problem("argmin", objective, solver=solver, conditions=conditions, linear_solver=CG(), **options)
    solver = ProximalGradient() if solver is None else solver
    conditions = proximal_gradient(objective, part, batch_dims=batch_dims)
    if isinstance(solver, MirrorDescent):
        conditions = mirror_descent(objective, part, batch_dims=batch_dims)
    given = {"constraint": part}  # solvers take both alike
    return Problem(
        "argmin", objective, solver=solver, conditions=conditions, linear_solver=GMRES(), options=given, **options
    )


def make_solver(name: str, **options: Any) -> Any:
    """A solver by name: fixed-point and root solvers, minimisers, linear solvers. An error lists what is valid.

    >>> make_solver("picard", tol=1e-3, damping=0.5).damping
    0.5
    """
    return make(
        "solver", {**SOLVERS, **SPLITTINGS, **MINIMIZERS, **CONSTRAINED_MINIMIZERS, **LINEAR_SOLVERS}, name, options
    )


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


def _chosen(adjoint: EquationAdjoint | str | None, problem: Problem) -> EquationAdjoint:
    """The adjoint that was given, by itself or by name, or the exact one; an error where it is not for the problem."""
    chosen = Implicit() if adjoint is None else instance("adjoint", EQUATION_ADJOINTS, adjoint)
    if not isinstance(chosen, EquationAdjoint) or problem.name not in chosen.problems:
        valid = [kind.__name__ for kind in EQUATION_ADJOINTS.values() if problem.name in kind.problems]
        raise TypeError(f"the adjoint of {problem.name} must be one of {', '.join(valid)}, got {chosen!r}")
    return chosen


def _of_linear_solver(kwargs: dict[str, Any], adjoint: EquationAdjoint | str | None) -> EquationAdjoint | str | None:
    """`adjoint`, or the one of the argument `linear_solver`, by which `root` and `argmin` said it before."""
    linear_solver = renamed(kwargs, "linear_solver", "adjoint=Implicit(...)", LinearSolver, None)
    if linear_solver is None:
        return adjoint
    if adjoint is not None:
        raise TypeError("pass adjoint=Implicit(linear_solver) alone, without linear_solver")
    return Implicit(linear_solver)


def _run(adjoint: EquationAdjoint, problem: Problem) -> tuple[Any, Solution]:
    return returned(*adjoint.apply(problem))


@eager
def _run_eagerly(adjoint: EquationAdjoint, problem: Problem) -> tuple[Any, Solution]:
    return _run(adjoint, problem)


def _difference(z: Any, fz: Any) -> Any:
    ravel = Ravel(z)
    return ravel.restore([a - b for a, b in zip(tensor_leaves(z), ravel.leaves(fz), strict=True)])
