"""Laws of motion that are learned from orbits: an energy, or, the baseline, a field.

Both know as much of the system. Of the pendulum nothing: q and p go in. Of two bodies that they are equal, that their
laws change neither with the place nor under rotations and reflections, and that what they do to each other sums up to
zero; for the energy, that it is T(p) + V(q).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.nn.dynamics import mlp
from deqzoo.nn.hamiltonian import HamiltonianODE, SeparableHamiltonian
from deqzoo.nn.ode import NeuralODE
from deqzoo.nn.tensors import check_tensor


class Perceptrons(nn.Module):
    """Several perceptrons of a number each, x -> tanh -> tanh -> number, that are evaluated together.

    Args:
        count: of them.
        hidden: width.

    >>> Perceptrons(2, 8)(torch.zeros(2, 5, 1)).shape
    torch.Size([2, 5, 1])
    """

    def __init__(self, count: int, hidden: int) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in itertools.pairwise((1, hidden, hidden, 1)):
            bound = 1 / math.sqrt(before)  # as `nn.Linear` draws them
            self.weights.append(torch.empty(count, before, after).uniform_(-bound, bound))
            self.biases.append(torch.empty(count, 1, after).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(count, B, 1) -> (count, B, 1)."""
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x.tanh() if layer else x, weight)
        return x

    def derivative(self, x: Tensor) -> Tensor:
        """Of each number by its x, (count, B, 1): in closed form, which takes a third of automatic differentiation."""
        (w1, w2, w3), (b1, b2, _) = self.weights, self.biases
        first = torch.baddbmm(b1, x, w1).tanh()
        second = torch.baddbmm(b2, first, w2).tanh()
        of_first = torch.bmm((1 - second.square()) * w3.mT, w2.mT)
        return torch.bmm((1 - first.square()) * of_first, w1.mT)


class LearnedEnergy(SeparableHamiltonian):
    """H = T(p) + V(q) by `Perceptrons`, T and V evaluated together.

    Of a pendulum T(p) + V(q); of two bodies T(|p_1|^2) + T(|p_2|^2) + 2 V(|q_1 - q_2|).

    Args:
        bodies: 1 (of one position each, a pendulum) or 2 (in the plane).
        hidden: width.
    """

    def __init__(self, bodies: int, hidden: int) -> None:
        super().__init__(None, None)
        self.bodies = bodies
        self.perceptrons = Perceptrons(2, hidden)

    def energy(self, q: Tensor, p: Tensor) -> Tensor:
        """H of each state, (B,)."""
        if self.bodies == 2:
            q, p = self._distance(q).repeat_interleave(2, 0), _squares(p)
        return self.perceptrons(torch.stack([p, q])).sum(0).reshape(-1, self.bodies).sum(1)

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """As `Hamiltonian.forward`, in closed form."""
        q, p = state
        if self.bodies == 1:
            of_p, of_q = self.perceptrons.derivative(torch.stack([p, q]))
            return of_p, -of_q
        r = self._distance(q)
        of_square, of_r = self.perceptrons.derivative(torch.stack([_squares(p), r.repeat_interleave(2, 0)]))
        force = (q[:, 2:] - q[:, :2]) * (of_r.reshape(-1, 2).sum(1, keepdim=True) / r)
        return (2 * of_square * p.reshape(-1, 2)).reshape_as(p), torch.cat([force, -force], 1)

    def _distance(self, q: Tensor) -> Tensor:
        return (q[:, :2] - q[:, 2:]).square().sum(1, keepdim=True).sqrt()


def _squares(p: Tensor) -> Tensor:
    """|p_i|^2 of each body, (2 B, 1)."""
    return p.reshape(-1, 2).square().sum(1, keepdim=True)


class PlainField(nn.Module):
    """d/dt (q, p) by a perceptron.

    Of a pendulum of (q, p). Of two bodies, with r = q_1 - q_2 and m = p_1 - p_2, each of dr/dt and dm/dt is a sum of r
    and m with factors that depend on |r|, |m|^2 and r.m; the bodies do half of it each, in opposite directions.

    Args:
        bodies: as for `LearnedEnergy`.
        hidden: width of two hidden layers.
    """

    def __init__(self, bodies: int, hidden: int) -> None:
        super().__init__()
        self.bodies = bodies
        self.net = mlp(2, hidden, hidden, 2) if bodies == 1 else mlp(3, hidden, hidden, 4)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, 2 d) -> (B, 2 d)."""
        if self.bodies == 1:
            return self.net(y)
        q1, q2, p1, p2 = y.chunk(4, 1)
        r, m = q1 - q2, p1 - p2
        invariants = [r.square().sum(1).sqrt(), m.square().sum(1), (r * m).sum(1)]
        a, b, c, d = self.net(torch.stack(invariants, 1)).unsqueeze(2).unbind(1)
        dr, dm = (a * r + b * m) / 2, (c * r + d * m) / 2
        return torch.cat([dr, -dr, dm, -dm], 1)


class _Orbits(nn.Module):
    """The motion of a learned law: states (B, 2 d) at the first of times (T,), and the times, in; (B, T, 2 d) out."""

    ode: Any
    dim: int

    def forward(self, states: Tensor, times: Tensor) -> Tensor:
        """States at times, which increase, and the first of which is that of `states`."""
        check_tensor("states", states)
        if states.dim() != 2 or states.shape[1] != 2 * self.dim:
            raise ValueError(
                f"states must be (B, {2 * self.dim}), {self.dim} positions and then {self.dim} momenta, got "
                f"{tuple(states.shape)}"
            )
        return self.ode(states, times).transpose(0, 1)


class HamiltonianOrbits(_Orbits):
    """Orbits of a learned energy.

    Args:
        system, dim: the fields of `deqzoo.data.info.OrbitInfo`.
        hidden: see `LearnedEnergy`.
        solver, adjoint: see `deqzoo.nn.HamiltonianODE`.

    Source: Greydanus, Dzamba, Yosinski, "Hamiltonian Neural Networks", 2019; Chen, Zhang, Arjovsky, Bottou, "Symplectic
    Recurrent Neural Networks", 2020.

    >>> HamiltonianOrbits("two_body", 4)(torch.rand(3, 8), torch.linspace(0, 1, 5)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, system: str, dim: int, *, hidden: int = 32, solver: Any = None, adjoint: Any = None) -> None:
        super().__init__()
        self.dim = dim
        self.ode = HamiltonianODE(LearnedEnergy(bodies_of(system, dim), hidden), solver=solver, adjoint=adjoint)


class PlainOrbits(_Orbits):
    """Orbits of a learned field; arguments as for `HamiltonianOrbits`.

    >>> PlainOrbits("free_pendulum", 1)(torch.rand(3, 2), torch.linspace(0, 1, 5)).shape
    torch.Size([3, 5, 2])
    """

    def __init__(self, system: str, dim: int, *, hidden: int = 45, solver: Any = None, adjoint: Any = None) -> None:
        super().__init__()
        self.dim = dim
        self.ode = NeuralODE(PlainField(bodies_of(system, dim), hidden), solver=solver, adjoint=adjoint)


def bodies_of(system: str, dim: int) -> int:
    """How many bodies the networks for a system of this name have.

    >>> bodies_of("two_body", 4)
    2
    """
    found = {("free_pendulum", 1): 1, ("two_body", 4): 2}.get((system, dim))
    if found is None:
        raise ValueError(f"there is no network for the system {system!r} with {dim} positions")
    return found
