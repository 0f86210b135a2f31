"""How the solution of an equation is differentiated: five choices between exactness, memory and cost.

An adjoint is a frozen dataclass of its options with a method `apply`; one of your own is a subclass of
`EquationAdjoint`, passed as `adjoint=` like these.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .by_name import instance
from .fixed_point_solvers import Broyden, Picard
from .linear_solvers import LINEAR_SOLVERS, LinearSolver
from .modes import host_flags, in_transform, needs_derivative
from .problem import Problem
from .pytree import Ravel, tensor_leaves
from .reversible import can_be_reversed, reversed_gradient
from .solution import Solution, Status
from .traced import attach_traced


class Adjoint(ABC):  # noqa: B024 (`apply` takes other arguments for equations than for ODEs)
    """Base of what may stand after `adjoint=`: how the derivative of a solution is made."""


class EquationAdjoint(Adjoint):
    """Base of the adjoints of `fixed_point`, `root` and `argmin`.

    Attributes:
        problems: the names of the functions that it is for.
        compiles: whether `torch.compile` can take it, derivatives included, as part of a larger graph, where the solver
            takes all steps (`stop="never"`).

    An adjoint that says nothing of how the solution depends on anything:

    >>> class Constant(EquationAdjoint):
    ...     def apply(self, problem):
    ...         solution = problem.solve()
    ...         return solution.value, solution
    >>> from deqzoo import fixed_point
    >>> a = torch.tensor(0.5, requires_grad=True)
    >>> fixed_point(lambda z, a: torch.cos(a * z), torch.zeros(()), a, adjoint=Constant()).requires_grad
    False
    """

    problems: ClassVar[tuple[str, ...]] = ("fixed_point",)
    compiles: ClassVar[bool] = False

    def fits(self, solver: Any) -> bool:
        """Whether it can differentiate what this solver finds; some differentiate the steps of a certain one."""
        return True

    @abstractmethod
    def apply(self, problem: Problem) -> tuple[Any, Solution]:
        """Solve the problem (`problem.solve()`). Returns the solution's value with its derivatives, and the solution.

        Where no derivative is required (`implicit.modes.needs_derivative`), the value is `solution.value` as it is.
        """


@dataclasses.dataclass(frozen=True)
class Implicit(EquationAdjoint):
    """The exact derivative, by the implicit function theorem: one linear solve with the condition's Jacobian.

    For a fixed point that is I - df/dz, transposed for a gradient. With `Neumann(k)` as the linear solver it is the
    truncated series of k products; with `GMRES(max_steps=k)`, k products come nearer to the solution.

    Args:
        linear_solver: solver of the adjoint system (and of the tangent system in forward mode), or its name; None:
            `GMRES()`, for `argmin` `CG()`.
        share_inverse: precondition that system by the inverse Jacobian that `Broyden` has built on its way to the fixed
            point. It changes the cost, not the result; a solve that is truncated starts with a better guess (with
            `Neumann(k=0)` this is SHINE). In torch.func transforms it has no effect.

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", 2019; Ramzi et al., "SHINE: SHaring the INverse Estimate
    from the forward pass for bi-level optimization and implicit models", 2022.

    >>> Implicit("neumann").linear_solver
    Neumann(tol=None, k=10, damping=1.0)
    """

    linear_solver: LinearSolver | None = None
    share_inverse: bool = False

    problems: ClassVar[tuple[str, ...]] = ("fixed_point", "root", "argmin")

    @property
    def compiles(self) -> bool:  # type: ignore[override]  # a class attribute of the others
        """Where the adjoint solve takes a fixed number of products: `Neumann(k)`, or `GMRES(max_steps=k)`, k <= 30."""
        return self.linear_solver is not None and self.linear_solver.all_steps and not self.share_inverse

    def __init__(self, linear_solver: LinearSolver | str | None = None, share_inverse: bool = False) -> None:
        found = instance("linear solver", LINEAR_SOLVERS, linear_solver)
        if not isinstance(found, LinearSolver | None):
            raise TypeError(f"linear_solver must be a linear solver such as GMRES(), or its name, got {found!r}")
        object.__setattr__(self, "linear_solver", found)
        object.__setattr__(self, "share_inverse", share_inverse)

    def apply(self, problem: Problem) -> tuple[Any, Solution]:
        """See `EquationAdjoint`."""
        solution = problem.solve()
        if torch.compiler.is_compiling() and needs_derivative():
            solver = problem.linear_solver if self.linear_solver is None else self.linear_solver
            given = problem.conditions, solution.value, problem.args, solver, problem.batch_dims
            return attach_traced(*given), solution
        inverse, solution.inverse = solution.inverse, None  # it holds the solver's memory
        if not needs_derivative():
            return solution.value, solution
        preconditioner = self._shared(inverse, problem, solution.value) if self.share_inverse else None
        return problem.attach(solution, self.linear_solver, preconditioner), solution

    def _shared(
        self, inverse: Callable[[Tensor], Tensor] | None, problem: Problem, value: Any
    ) -> Callable[..., Any] | None:
        """The solver's inverse Jacobian as a preconditioner; None where the solve ended before it had any."""
        own = problem.preconditioner
        if own is not None or not isinstance(problem.solver, Broyden) or problem.name != "fixed_point":
            raise TypeError(
                f"share_inverse needs solver=Broyden(...) and no preconditioner, and is for fixed_point alone; got "
                f"{problem.solver!r} and {own!r} for {problem.name}"
            )
        if inverse is None:
            return None
        ravel = Ravel(value, problem.batch_dims)
        return lambda v, *_: ravel.unflatten(inverse(ravel.flatten(v)))


@dataclasses.dataclass(frozen=True)
class Phantom(EquationAdjoint):
    """The phantom gradient: backpropagation through `steps` damped steps z <- (1 - damping) z + damping f(z) from z*.

    Its error falls like that of the truncated Neumann series; one step costs one evaluation of f on the tape. At the
    fixed point it equals `Implicit(Neumann(k=steps - 1, damping=damping))`, which evaluates f once and multiplies by
    the Jacobian there: less time, and the memory of one step. Before the fixed point is reached they differ:
    this one goes on with the iteration.

    Source: Geng et al., "On Training Implicit Models", 2021.
    """

    steps: int = 5
    damping: float = 1.0

    compiles: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.damping <= 1:
            raise ValueError(f"Phantom needs steps >= 1 and damping in (0, 1], got {self.steps} and {self.damping}")

    def apply(self, problem: Problem) -> tuple[Any, Solution]:
        """See `EquationAdjoint`."""
        return _steps_on_tape(problem, self.steps, self.damping)


@dataclasses.dataclass(frozen=True)
class OneStep(EquationAdjoint):
    """The Jacobian-free gradient: backpropagation through one f at z*, as if df/dz were zero.

    Source: Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks", 2022.
    """

    compiles: ClassVar[bool] = True

    def apply(self, problem: Problem) -> tuple[Any, Solution]:
        """See `EquationAdjoint`."""
        return _steps_on_tape(problem, 1, 1.0)


@dataclasses.dataclass(frozen=True)
class Unrolled(EquationAdjoint):
    """Backpropagation through all iterations of `Picard`: exact for the iterate returned, memory grows with the steps.

    Args:
        checkpoint: keep only the iterates and evaluate f again in the backward pass.
    """

    checkpoint: bool = False

    def fits(self, solver: Any) -> bool:
        """That of `Picard`."""
        return isinstance(solver, Picard)

    def apply(self, problem: Problem) -> tuple[Any, Solution]:
        """See `EquationAdjoint`."""
        if not self.fits(problem.solver):
            raise TypeError(f"Unrolled differentiates plain iteration: pass solver=Picard(...), not {problem.solver!r}")
        f, again = problem.f, self.checkpoint and not in_transform()

        def step(z: Any, *args: Any) -> Any:
            return checkpoint(f, z, *args, use_reentrant=False) if again else f(z, *args)

        solution = problem.run_solver(step, record=True)
        idle = (solution.steps == 0) & (solution.status != Status.DIVERGED)
        if needs_derivative() and (solution.steps.numel() == 0 or host_flags(idle)[0][0]):
            # A system that met the stop rule at its start has nothing on the tape: it takes one step there.
            value, moved = solution.value, step(solution.value, *problem.args)
            ravel = Ravel(value, problem.batch_dims)
            chosen = [
                torch.where(idle.reshape(idle.shape + (1,) * (a.dim() - idle.dim())), b.to(a.dtype), a)
                for a, b in zip(tensor_leaves(value), ravel.leaves(moved), strict=True)
            ]
            solution.value, solution.nfe = ravel.restore(chosen), solution.nfe + 1
        problem.checked(solution)
        return solution.value, solution


@dataclasses.dataclass(frozen=True)
class ReversibleIteration(EquationAdjoint):
    """Backpropagation through all steps of a reversible iteration, none of which is kept: exact, in constant memory.

        y <- (1 - b) y + b f(z),    z <- (1 - b) z + b f(y)

    b and the number of steps are those of the solver, `Picard(damping=b, max_steps=N, stop="never")`, 0 < b < 1; a step
    takes two evaluations of f. z is returned. In the backward the steps are run back, to the bit: the gradient is that
    of the steps taken, whether they have come to the fixed point or not. Kept are the two states, and of each number
    and step 2 log2(q) bits, 1 - b = p / q: 5 bits at b = .8, without which the way back is lost (see
    `implicit.reversible`). Numbers are rounded to multiples of 2^-40; a system beyond 4e6 has diverged. b is taken for
    a fraction of whole numbers up to 64. First derivatives only; `compact` changes nothing.

    Where f gives other values in the backward than in the forward, the way back leads elsewhere: then
    `solution.backward` has the status STALLED and the distance from the start as its residual, and a warning is given.

    Source: McCallum, Arora, Foster, "Reversible Deep Equilibrium Models", 2025 (in floating point).

    >>> from deqzoo import fixed_point
    >>> a, solver = torch.tensor(0.5, requires_grad=True), Picard(damping=0.8, max_steps=30, stop="never")
    >>> z = fixed_point(lambda z, a: torch.cos(a * z), torch.zeros(()), a, solver=solver, adjoint=ReversibleIteration())
    >>> torch.autograd.grad(z, a)[0]  # -z sin(a z) / (1 + a sin(a z))
    tensor(-0.3218)
    """

    def fits(self, solver: Any) -> bool:
        """That of damped `Picard` which takes all its steps."""
        return can_be_reversed(solver)

    def apply(self, problem: Problem) -> tuple[Any, Solution]:
        """See `EquationAdjoint`."""
        return reversed_gradient(problem)


EQUATION_ADJOINTS: dict[str, type[EquationAdjoint]] = {
    "implicit": Implicit,
    "one_step": OneStep,
    "phantom": Phantom,
    "reversible_iteration": ReversibleIteration,
    "unrolled": Unrolled,
}


def _steps_on_tape(problem: Problem, steps: int, damping: float) -> tuple[Any, Solution]:
    solution = problem.solve()
    solution.inverse = None
    value = solution.value
    for _ in range(steps if needs_derivative() else 0):
        value = _mix(value, problem.f(value, *problem.args), damping)
    return value, solution


def _mix(z: Any, fz: Any, damping: float) -> Any:
    ravel = Ravel(z)
    pairs = zip(tensor_leaves(z), ravel.leaves(fz), strict=True)
    return ravel.restore([a + damping * (b - a) if damping != 1 else b.to(a.dtype) for a, b in pairs])
