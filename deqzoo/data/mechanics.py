"""Mechanical systems whose energy is known: a pendulum without friction, and two bodies that attract each other."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from torch import Tensor

from deqzoo.data.series_set import Floats


@dataclass(frozen=True)
class Mechanics:
    """A system with a Hamiltonian. States are (..., 2 dim): positions q, then momenta p; without units.

    Attributes:
        title, sample: a set of its orbits, and one of them, in words.
        dim: positions.
        period: the longest of the orbits that are drawn.
        orbits: how many there are to learn from: more where they differ in more ways.
        energy: the true one of states, (...,), in units in which it is 0 at rest (pendulum) or far apart (bodies).
        slope: the true d/dt of states (n, 2 dim).
        draw: (number of orbits, random numbers) -> states (n, 2 dim), one of each orbit.
    """

    title: str
    sample: str
    dim: int
    period: float
    orbits: int
    energy: Callable[[Tensor], Tensor]
    slope: Callable[[Floats], Floats]
    draw: Callable[[int, np.random.Generator], Floats]

    def simulate(self, states: Floats, times: Floats) -> Floats:
        """The true states at times (T,), (n, T, 2 dim), from those at times[0], to ten digits or so."""
        n, size = states.shape

        def slope(t: float, flat: Floats) -> Floats:
            return self.slope(flat.reshape(n, size)).ravel()

        solved = solve_ivp(slope, times[[0, -1]], states.ravel(), "DOP853", times, rtol=1e-11, atol=1e-11)
        path: Floats = solved.y.reshape(n, size, len(times)).transpose(0, 2, 1)
        return path


# H = p^2 / 2 + 1 - cos(q): amplitudes of 45 to 120 degrees, away from the separatrix at 180.
AMPLITUDES = (math.pi / 4, 2 * math.pi / 3)


def pendulum_energy(states: Tensor) -> Tensor:
    """p^2 / 2 + 1 - cos(q).

    >>> import torch
    >>> pendulum_energy(torch.tensor([[0.0, 1.0]]))
    tensor([0.5000])
    """
    q, p = states.unbind(-1)
    return p.square() / 2 + 1 - q.cos()


def _pendulum_slope(states: Floats) -> Floats:
    return np.stack([states[:, 1], -np.sin(states[:, 0])], axis=1)


def _draw_pendulums(n: int, draw: np.random.Generator) -> Floats:
    """Uniform in amplitude, at a random time of the swing."""
    rest = np.stack([draw.uniform(*AMPLITUDES, n), np.zeros(n)], axis=1)
    after = draw.uniform(0, 8.63, (n, 1))

    def slope(t: float, flat: Floats) -> Floats:  # each in units of its own time
        return (after * _pendulum_slope(flat.reshape(n, 2))).ravel()

    states: Floats = solve_ivp(slope, (0, 1), rest.ravel(), "DOP853", rtol=1e-11, atol=1e-11).y[:, -1].reshape(n, 2)
    return states


# H = (|p_1|^2 + |p_2|^2) / 2 - 1 / |q_1 - q_2|, in the plane, masses and constant of gravitation 1.
AXES, ECCENTRICITIES = (0.8, 1.2), (0.0, 0.3)


def two_body_energy(states: Tensor) -> Tensor:
    """(|p_1|^2 + |p_2|^2) / 2 - 1 / |q_1 - q_2|.

    >>> import torch
    >>> two_body_energy(torch.tensor([[0.5, 0.0, -0.5, 0.0, 0.0, 0.7, 0.0, -0.7]]))
    tensor([-0.5100])
    """
    q1, q2, p1, p2 = states.unflatten(-1, (4, 2)).unbind(-2)
    return (p1.square() + p2.square()).sum(-1) / 2 - 1 / (q1 - q2).norm(dim=-1)


def _two_body_slope(states: Floats) -> Floats:
    q1, q2, p1, p2 = (states[:, i : i + 2] for i in (0, 2, 4, 6))
    force = (q2 - q1) / np.linalg.norm(q1 - q2, axis=1, keepdims=True) ** 3
    return np.concatenate([p1, p2, force, -force], axis=1)


def _draw_two_bodies(n: int, draw: np.random.Generator) -> Floats:
    """Bound orbits around the centre of mass, at rest in the origin: uniform in the axis and the eccentricity of the
    relative motion, the direction of the axis, the mean anomaly, and in the sense of rotation."""
    axis, eccentricity = draw.uniform(*AXES, n), draw.uniform(*ECCENTRICITIES, n)
    mean, direction, sense = draw.uniform(0, 2 * np.pi, n), draw.uniform(0, 2 * np.pi, n), draw.choice([-1.0, 1.0], n)
    anomaly = mean.copy()
    for _ in range(50):  # Kepler's equation
        anomaly = mean + eccentricity * np.sin(anomaly)
    rate = np.sqrt(2 / axis**3) / (1 - eccentricity * np.cos(anomaly))  # of the anomaly
    minor = axis * np.sqrt(1 - eccentricity**2)
    place = axis * (np.cos(anomaly) - eccentricity), sense * minor * np.sin(anomaly)
    speed = -axis * np.sin(anomaly) * rate, sense * minor * np.cos(anomaly) * rate
    cos, sin = np.cos(direction), np.sin(direction)
    q, p = (np.stack([cos * x - sin * y, sin * x + cos * y], axis=1) / 2 for x, y in (place, speed))
    return np.concatenate([q, -q, p, -p], axis=1)


MECHANICS: dict[str, Mechanics] = {
    "free_pendulum": Mechanics(
        title="Pendulums without friction, at amplitudes of 45 to 120 degrees",
        sample="51 states (q, p) of an orbit, .4 apart",
        dim=1,
        period=8.63,
        orbits=40,
        energy=pendulum_energy,
        slope=_pendulum_slope,
        draw=_draw_pendulums,
    ),
    "two_body": Mechanics(
        title="Two bodies in the plane that attract each other, eccentricities of 0 to .3",
        sample="51 states (q, p) of an orbit, .2 apart",
        dim=4,
        period=2 * math.pi * math.sqrt(AXES[1] ** 3 / 2),
        orbits=160,
        energy=two_body_energy,
        slope=_two_body_slope,
        draw=_draw_two_bodies,
    ),
}
