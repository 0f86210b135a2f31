"""Pendulums whose physical parameters are learned from their angles: by an ODE solver, or by the residual of the ODE.

theta'' = -k sin(theta) - c theta',    k = gravity / length (1/s^2), c = damping (1/s)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp

from deqzoo.nn.dynamics import mlp
from deqzoo.nn.ode import NeuralODE
from deqzoo.nn.tensors import check_tensor


class Pendulum(nn.Module):
    """Dynamics of a damped pendulum, with positive parameters that are learned as logarithms.

    >>> Pendulum(gravity_over_length=4.0, damping=0.5)(torch.zeros(()), torch.tensor([[math.pi / 2, 1.0]]))
    tensor([[ 1.0000, -4.5000]], grad_fn=<StackBackward0>)
    """

    def __init__(self, gravity_over_length: float, damping: float) -> None:
        super().__init__()
        self.log_parameters = nn.Parameter(torch.tensor([gravity_over_length, damping]).log())

    @property
    def gravity_over_length(self) -> Tensor:
        """k, in 1/s^2."""
        return self.log_parameters[0].exp()

    @property
    def damping(self) -> Tensor:
        """c, in 1/s."""
        return self.log_parameters[1].exp()

    def acceleration(self, angle: Tensor, velocity: Tensor) -> Tensor:
        """theta'' of angles (rad) and angular velocities (rad/s), of any shape."""
        return -self.gravity_over_length * angle.sin() - self.damping * velocity

    def forward(self, t: Tensor, state: Tensor) -> Tensor:
        """d/dt of states (..., 2): angle and angular velocity."""
        angle, velocity = state.unbind(-1)
        return torch.stack([velocity, self.acceleration(angle, velocity)], -1)


class PendulumODE(nn.Module):
    """Pendulums that share their parameters, each from an initial state of its own; all of it is learned.

    Args:
        count: pendulums.
        gravity_over_length, damping: the guess from which learning starts.
        solver, adjoint: see `deqzoo.nn.NeuralODE`.

    Attributes:
        initial: (count, 2), angle and velocity at time 0.

    >>> PendulumODE(3)(torch.linspace(0, 1, 5)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        count: int,
        *,
        gravity_over_length: float = 5.0,
        damping: float = 0.5,
        solver: Any = None,
        adjoint: Any = None,
    ) -> None:
        super().__init__()
        self.ode = NeuralODE(Pendulum(gravity_over_length, damping), solver=solver, adjoint=adjoint)
        self.initial = nn.Parameter(torch.zeros(count, 2))

    @property
    def physics(self) -> Pendulum:
        """The dynamics, with the learned parameters."""
        return self.ode.dynamics

    def forward(self, times: Tensor) -> Tensor:
        """Angles (count, T) at times (T,), increasing from 0."""
        return self.states(times)[..., 0]

    def states(self, times: Tensor) -> Tensor:
        """Angles and velocities, (count, T, 2)."""
        return self.ode(self.initial, times).transpose(0, 1)


class PendulumPINN(nn.Module):
    """A network u(t) for the angles of several pendulums, and the parameters of the ODE that it should obey.

    u is a perceptron on sines and cosines of t. Inside [0, span] it is trained on data and on its `residual`; `states`
    solves the ODE from (u(0), u'(0)), so that it goes on beyond.

    Args:
        count: pendulums.
        span: the longest time at which u is asked, in s.
        hidden: width of the perceptron's two hidden layers.
        frequencies: of the sines and cosines: 1/2, 2/2, ... periods in the span.
        gravity_over_length, damping, solver, adjoint: as `PendulumODE` has them.

    Source: Raissi, Perdikaris, Karniadakis, "Physics-informed neural networks", 2019.

    >>> model = PendulumPINN(3)
    >>> model(torch.linspace(0, 1, 5)).shape, model.residual(torch.rand(7)).shape
    (torch.Size([3, 5]), torch.Size([3, 7]))
    """

    def __init__(
        self,
        count: int,
        *,
        span: float = 10.0,
        hidden: int = 64,
        frequencies: int = 20,
        gravity_over_length: float = 5.0,
        damping: float = 0.5,
        solver: Any = None,
        adjoint: Any = None,
    ) -> None:
        super().__init__()
        self.net = mlp(2 * frequencies, hidden, hidden, count)
        self.ode = NeuralODE(Pendulum(gravity_over_length, damping), solver=solver, adjoint=adjoint)
        self.frequencies: Tensor
        self.register_buffer("frequencies", math.pi / span * torch.arange(1, frequencies + 1), persistent=False)

    @property
    def physics(self) -> Pendulum:
        """The dynamics, with the learned parameters."""
        return self.ode.dynamics

    def forward(self, times: Tensor) -> Tensor:
        """Angles u (count, T) at times (T,)."""
        check_tensor("times", times)
        if times.dim() != 1:
            raise ValueError(f"times must be (T,), in s, got {tuple(times.shape)}")
        phase = times[:, None] * self.frequencies
        return self.net(torch.cat([phase.sin(), phase.cos()], -1)).T

    def residual(self, times: Tensor) -> Tensor:
        """u'' + k sin(u) + c u', (count, T), with both derivatives by forward mode."""
        angle, velocity, acceleration = self._derivatives(times)
        return acceleration - self.physics.acceleration(angle, velocity)

    def states(self, times: Tensor) -> Tensor:
        """Angles and velocities (count, T, 2) of the ODE, from u's state at times[0]."""
        angle, velocity, _ = self._derivatives(times[:1])
        return self.ode(torch.cat([angle, velocity], -1), times).transpose(0, 1)

    def _derivatives(self, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """u, u' and u'', (count, T) each."""
        one = torch.ones_like(times)

        def with_velocity(t: Tensor) -> Any:
            return jvp(self.forward, (t,), (one,))

        both: Any = jvp(with_velocity, (times,), (one,))
        (angle, velocity), (_, acceleration) = both
        return angle, velocity, acceleration
