"""Hamiltonian dynamics: the energy is learned, and the motion follows from its gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import vjp

from ..implicit import Leapfrog, ODEAdjoint, ODESolver
from ..implicit.modes import in_transform
from ..implicit.ode.solvers import is_splitting
from ..implicit.solution import OnFailure
from .ode import NeuralODE


class Hamiltonian(nn.Module, ABC):
    """Dynamics of a Hamiltonian H(q, p), for states (q, p) of two tensors (B, d):

        dq/dt = dH/dp,    dp/dt = -dH/dq

    A subclass defines `energy`, by differentiable operations; activations should be smooth (tanh, softplus, SiLU), as
    training differentiates their derivative. H is conserved along the exact motion, and by `Leapfrog` nearly so.

    Source: Greydanus, Dzamba, Yosinski, "Hamiltonian Neural Networks", 2019.

    >>> class Spring(Hamiltonian):
    ...     def energy(self, q, p):
    ...         return (q.square() + p.square()).sum(1) / 2
    >>> with torch.no_grad():
    ...     Spring()(torch.tensor(0.0), (torch.tensor([[1.0]]), torch.tensor([[2.0]])))
    (tensor([[2.]]), tensor([[-1.]]))
    """

    @abstractmethod
    def energy(self, q: Tensor, p: Tensor) -> Tensor:
        """H of each state, (B,)."""

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(dq/dt, dp/dt), (B, d) each."""
        of_q, of_p = _gradient(self.energy, *state)
        return of_p, -of_q


class SeparableHamiltonian(Hamiltonian):
    """H(q, p) = T(p) + V(q), the form that `Leapfrog` is for.

    Args:
        kinetic: T, a module (or function) from momenta (B, d) to (B,) or (B, 1).
        potential: V, likewise of positions.

    Source: Chen, Zhang, Arjovsky, Bottou, "Symplectic Recurrent Neural Networks", 2020.

    >>> T, V = (nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)) for _ in range(2))
    >>> SeparableHamiltonian(T, V).energy(torch.zeros(5, 3), torch.zeros(5, 3)).shape
    torch.Size([5])
    """

    def __init__(self, kinetic: Any, potential: Any) -> None:
        super().__init__()
        self.kinetic, self.potential = kinetic, potential

    def energy(self, q: Tensor, p: Tensor) -> Tensor:
        """T(p) + V(q), (B,)."""
        return self.kinetic(p).reshape(len(p)) + self.potential(q).reshape(len(q))


class HamiltonianODE(NeuralODE):
    """The motion of a Hamiltonian as a layer: the state at t_0 in, that at t_1 (or at given times) out.

    As `NeuralODE`; the state is one tensor (B, 2 d), positions and then momenta.

    Args:
        hamiltonian: the dynamics, f(t, (q, p)) -> (dq/dt, dp/dt): a `Hamiltonian`. `Leapfrog` raises unless it is
            separable (that of a `SeparableHamiltonian`, which is so by construction, is not asked).
        t, adjoint, on_failure: as for `NeuralODE`. `adjoint="reversible"` takes the memory of one state.
        solver: an ODE solver, or its name; `Leapfrog(step_size=0.1)` by default: give the step that fits your units of
            time, a twentieth of the shortest period or less.

    Source: Greydanus, Dzamba, Yosinski, "Hamiltonian Neural Networks", 2019; Chen, Zhang, Arjovsky, Bottou, "Symplectic
    Recurrent Neural Networks", 2020, for training through a symplectic solver.

    >>> half_square = lambda x: x.square().sum(1) / 2
    >>> spring = HamiltonianODE(SeparableHamiltonian(half_square, half_square), t=(0.0, 3.1416))
    >>> spring(torch.tensor([[1.0, 2.0]])).round(decimals=1)  # q, p after half a period
    tensor([[-1., -2.]])
    """

    default_solver: ClassVar[ODESolver] = Leapfrog(step_size=0.1)

    def __init__(
        self,
        hamiltonian: Any,
        *,
        t: Sequence[float] = (0.0, 1.0),
        solver: ODESolver | str | None = None,
        adjoint: ODEAdjoint | str | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__(hamiltonian, t=t, solver=solver, adjoint=adjoint, on_failure=on_failure)

    @property
    def chosen_solver(self) -> Any:
        """The solver, which need not ask whether a `SeparableHamiltonian` is separable."""
        solver = super().chosen_solver
        if isinstance(self.dynamics, SeparableHamiltonian) and is_splitting(solver) and solver.check:
            return type(solver)(solver.step_size, solver.jump_times, check=False)
        return solver

    def forward(self, y0: Tensor, t: Tensor | Sequence[float] | None = None, *args: Any) -> Tensor:
        """y(t_1) of y0 = y(t_0), (B, 2 d); with `t`, y at all of these times, (len(t), B, 2 d)."""
        if not isinstance(y0, Tensor) or y0.dim() != 2 or y0.shape[1] % 2:
            shape = tuple(y0.shape) if isinstance(y0, Tensor) else type(y0).__name__
            raise ValueError(
                f"the state must be one tensor (B, 2 d), d positions and then d momenta, an even size, got {shape}"
            )
        return torch.cat(super().forward(y0.chunk(2, 1), t, *args), -1)


def _gradient(energy: Any, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """dH/dq and dH/dp of each state; they can be differentiated again where gradients are recorded."""
    if in_transform() or torch.is_inference_mode_enabled():
        value, pull_back = vjp(energy, q, p)[:2]
        found: tuple[Tensor, Tensor] = pull_back(torch.ones_like(value))
        return found
    taped = torch.is_grad_enabled()
    with torch.enable_grad():  # faster than vjp, which works in all modes
        own = [x if taped and x.requires_grad else x.detach().requires_grad_() for x in (q, p)]
        value = energy(*own)
        of_q, of_p = torch.autograd.grad(value.sum(), own, create_graph=taped, materialize_grads=True)
    return of_q, of_p
