"""How the gradient of a fixed point is computed: four choices between exactness, memory and cost."""

from __future__ import annotations

import dataclasses

from .linear_solvers import GMRES, LinearSolver


@dataclasses.dataclass(frozen=True)
class Implicit:
    """The exact gradient, by the implicit function theorem: one linear solve with I - df/dz transposed.

    With `Neumann(k)` as the linear solver it is the truncated series of k products; with `GMRES(max_steps=k)`, k
    products come nearer to the solution.

    Args:
        linear_solver: solver of the adjoint system (and of the tangent system in forward mode).
        share_inverse: precondition that system by the inverse Jacobian that `Broyden` has built on its way to the fixed
            point. It changes the cost, not the result; a solve that is truncated starts with a better guess (with
            `Neumann(k=0)` this is SHINE). In torch.func transforms it has no effect.

    Source: Bai, Kolter, Koltun, "Deep Equilibrium Models", 2019; Ramzi et al., "SHINE: SHaring the INverse Estimate
    from the forward pass for bi-level optimization and implicit models", 2022.
    """

    linear_solver: LinearSolver = dataclasses.field(default_factory=GMRES)
    share_inverse: bool = False


@dataclasses.dataclass(frozen=True)
class Phantom:
    """The phantom gradient: backpropagation through `steps` damped steps z <- (1 - damping) z + damping f(z) from z*.

    Its error falls like that of the truncated Neumann series; one step costs one evaluation of f on the tape. At the
    fixed point it equals `Implicit(Neumann(k=steps - 1, damping=damping))`, which evaluates f once and multiplies by
    the Jacobian there: less time, and the memory of one step. Before the fixed point is reached they differ:
    this one goes on with the iteration.

    Source: Geng et al., "On Training Implicit Models", 2021.
    """

    steps: int = 5
    damping: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.damping <= 1:
            raise ValueError(f"Phantom needs steps >= 1 and damping in (0, 1], got {self.steps} and {self.damping}")


@dataclasses.dataclass(frozen=True)
class OneStep:
    """The Jacobian-free gradient: backpropagation through one f at z*, as if df/dz were zero.

    Source: Fung et al., "JFB: Jacobian-Free Backpropagation for Implicit Networks", 2022.
    """


@dataclasses.dataclass(frozen=True)
class Unrolled:
    """Backpropagation through all iterations of `Picard`: exact for the iterate returned, memory grows with the steps.

    Args:
        checkpoint: keep only the iterates and evaluate f again in the backward pass.
    """

    checkpoint: bool = False


Gradient = Implicit | Phantom | OneStep | Unrolled
