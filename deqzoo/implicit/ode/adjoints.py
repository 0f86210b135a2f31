"""How the solution of an ODE is differentiated; `discrete.py` and `backsolve.py` have what the first two do.

An adjoint is a frozen dataclass of its options with a method `apply`; one of your own is a subclass of `ODEAdjoint`.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from ..adjoints import EQUATION_ADJOINTS, Adjoint
from ..by_name import make
from ..lifting import apply_visibly
from ..modes import no_derivatives
from ..pytree import Tensors
from .backsolve import BacksolveAdjoint
from .discrete import DiscreteAdjoint
from .reversible import ReversibleSweep
from .solvers import is_splitting
from .sweep import Sweep


class ODEAdjoint(Adjoint):
    """Base of the adjoints of `odeint`.

    Attributes:
        dense: whether `odeint_dense` and `odeint_event`, which keep dense output, can be differentiated by it.
        checkpoints: states that a solve off the tape keeps for the backward pass.
        sweep: that pass, where it goes step by step.
    """

    dense: ClassVar[bool] = True
    checkpoints: int = 0
    sweep: ClassVar[type[Sweep]] = Sweep

    @abstractmethod
    def apply(self, solve: Any, y: Tensor, t: Tensor) -> Tensors:
        """Solve from y, (systems, unknowns), at t[0]. Returns the outputs, with their derivatives.

        `solve` is a `deqzoo.implicit.ode.odeint.Solve`: `solve.on_tape(y, t)` has the outputs with each step on the
        tape; `solve.depends(y, t)` says whether there is anything to differentiate by, `solve.plain(y, t)` has the
        outputs without derivatives, and `solve.off_tape(y, t)` the `Trajectory` for a backward pass of one's own.
        """


def _by_sweep(solve: Any, y: Tensor, t: Tensor) -> Tensors:
    """The outputs, whose derivative is by the `sweep` of the adjoint."""
    if not solve.depends(y, t):
        return solve.plain(y, t)
    return apply_visibly(DiscreteAdjoint, solve, solve.off_tape(y, t), y, t, *solve.field.inputs)


@dataclasses.dataclass(frozen=True)
class Discrete(ODEAdjoint):
    """Exact derivative of the computed solution, the accepted steps taken for constants: the default.

    Backwards through the steps, each taken again from the state before it: about two evaluations of f and its pullback
    per stage. Memory: `checkpoints` states, whatever the number of steps and parameters; where there are more steps,
    the states between are computed once more, recursively.

    With adaptive steps it differs from finite differences of the whole solve, in which the steps would change as well,
    by about the tolerance where derivatives stay of one size. Where they grow by orders of magnitude and fall again, as
    in the jumps of a relaxation oscillation, a small error of a step in a state is a large one in the derivative, which
    the step control does not see: over two jumps of van der Pol's equation (mu = 1000, up to t = 2000) the states have
    5 digits at rtol 1e-5, and d/d(log mu), 1.297 when solved for exactly, is 85 by `Rodas5P` and 601 by `Kvaerno5`
    at rtol 1e-5, 4.5 and 2.2 at 1e-6, within 8 % at 1e-7, within .5 % at 1e-8. So compare with a finer tolerance
    there; the state's error and the status say nothing of it.

    Args:
        checkpoints: states kept between forward and backward.
    """

    checkpoints: int = 16

    def __post_init__(self) -> None:
        if self.checkpoints < 1:
            raise ValueError(f"checkpoints must be at least 1, got {self.checkpoints}")

    def apply(self, solve: Any, y: Tensor, t: Tensor) -> Tensors:
        """See `ODEAdjoint`."""
        return _by_sweep(solve, y, t)


@dataclasses.dataclass(frozen=True)
class Reversible(ODEAdjoint):
    """Exact derivative of the steps of `Leapfrog`, which are taken back one by one: O(1) memory, nothing recomputed.

    The same derivative as `Discrete`, up to the rounding by which the states that come back differ from those of the
    solve: near 1e-13 over thousands of regular steps in float64, 1e-4 in float32; where the motion is chaotic it grows
    exponentially. Where the state that comes back as the start is off by more than half of the digits,
    `Solution.backward` has the status STALLED, and `odeint` warns as `on_failure` says: use `Discrete()` then.

    A step costs two calls of f more than `Direct` does, to take it back. Of a system that failed there is no way back;
    then the steps are taken again from the start, as `Discrete(checkpoints=1)` does.

    Source: Zhuang, Dvornek, Tatikonda, Duncan, "MALI: A memory efficient and reverse accurate integrator for Neural
    ODEs", 2021.

    >>> import torch
    >>> from deqzoo.implicit import Leapfrog, Reversible, odeint
    >>> k = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    >>> start = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    >>> spring = lambda t, y, k: (y[1], -k * y[0])
    >>> q, _ = odeint(spring, start, [0.0, 10.0], k, solver=Leapfrog(step_size=2e-3), adjoint=Reversible())
    >>> torch.autograd.grad(q[-1].sum(), k)  # d/dk cos(10 sqrt(k)) = -10 sin(20) / 4 = -2.2824
    (tensor(-2.2824, dtype=torch.float64),)
    """

    checkpoints: ClassVar[int] = 1  # type: ignore[misc]  # the start, to which the steps should come back
    sweep: ClassVar[type[Sweep]] = ReversibleSweep
    dense: ClassVar[bool] = False

    def apply(self, solve: Any, y: Tensor, t: Tensor) -> Tensors:
        """See `ODEAdjoint`."""
        if not is_splitting(solve.solver):
            name = type(solve.solver).__name__
            raise ValueError(f"Reversible() takes steps of Leapfrog back, not those of {name}: use adjoint=Discrete()")
        return _by_sweep(solve, y, t)


@dataclasses.dataclass(frozen=True)
class Backsolve(ODEAdjoint):
    """The continuous adjoint, solved backwards in time together with the state: O(1) memory.

        du/dt = -(df/dy)^T u,    d(dL/dp)/dt = -(df/dp)^T u

    The gradient has an error of its own, of the size of the tolerance or, where the equation is unstable backwards in
    time, of any size. Prefer `Discrete`, which is exact and faster; this is for comparison, and for solves of very
    many steps.

    Args:
        seminorm: leave the integrals for the parameters out of the error control: fewer steps.
        rtol, atol: of the backward solve, a number each; None: those of the forward one (where these differ between
            components, u has those of y, and the integrals for the parameters the smallest).

    Source: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", 2018; Kidger, Chen, Lyons,
    "Hey, that's not an ODE: Faster ODE Adjoints via Seminorms", 2021.
    """

    seminorm: bool = True
    rtol: float | None = None
    atol: float | None = None

    dense: ClassVar[bool] = False

    def apply(self, solve: Any, y: Tensor, t: Tensor) -> Tensors:
        """See `ODEAdjoint`."""
        if not solve.depends(y, t):
            return solve.plain(y, t)
        trajectory = solve.off_tape(y, t)
        with no_derivatives():  # here, not inside of the function, as the solve
            solve.slope = solve.field(solve.time(t[-1:]), trajectory.values[-1], None)
        return apply_visibly(BacksolveAdjoint, solve, trajectory, y, t, *solve.field.inputs)


@dataclasses.dataclass(frozen=True)
class Direct(ODEAdjoint):
    """Backpropagation through the accepted steps, all kept on the tape: fastest for few steps, memory grows with them.

    The same derivative as `Discrete`. A step that some samples reject is taken once more, by the others alone; and all
    steps are where one has failed, without what came after its last output.
    """

    def apply(self, solve: Any, y: Tensor, t: Tensor) -> Tensors:
        """See `ODEAdjoint`."""
        return solve.on_tape(y, t)


ODE_ADJOINTS: dict[str, type[ODEAdjoint]] = {
    "backsolve": Backsolve,
    "direct": Direct,
    "discrete": Discrete,
    "reversible": Reversible,
}


def make_adjoint(name: str, **options: Any) -> Any:
    """An adjoint by name, of equations or of ODEs. An error lists what is valid.

    >>> make_adjoint("discrete", checkpoints=4), make_adjoint("phantom", steps=2)
    (Discrete(checkpoints=4), Phantom(steps=2, damping=1.0))
    """
    return make("adjoint", {**EQUATION_ADJOINTS, **ODE_ADJOINTS}, name, options)
