"""How the gradient of an ODE solve is computed: options; `odeint` explains them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..by_name import make


@dataclasses.dataclass(frozen=True)
class Adjoint:
    """Base of the adjoints of `odeint`."""


@dataclasses.dataclass(frozen=True)
class Discrete(Adjoint):
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


@dataclasses.dataclass(frozen=True)
class Backsolve(Adjoint):
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


@dataclasses.dataclass(frozen=True)
class Direct(Adjoint):
    """Backpropagation through the accepted steps, all kept on the tape: fastest for few steps, memory grows with them.

    The same derivative as `Discrete`. A step that some samples reject is taken once more, by the others alone; and all
    steps are where one has failed, without what came after its last output.
    """


ADJOINTS: dict[str, type[Adjoint]] = {"backsolve": Backsolve, "direct": Direct, "discrete": Discrete}


def make_adjoint(name: str, **options: Any) -> Adjoint:
    """An adjoint by name. An error lists what is valid.

    >>> make_adjoint("discrete", checkpoints=4)
    Discrete(checkpoints=4)
    """
    adjoint: Adjoint = make("adjoint", ADJOINTS, name, options)
    return adjoint
