"""What the recipes of pendulums may say; imports no torch."""

from dataclasses import dataclass

from deqzoo.models.common.config import ODESolverConfig, TrainingConfig


@dataclass
class PendulumTraining(TrainingConfig):
    """How the parameters of a pendulum are learned through the solver."""

    growth: float = 0.3  # fraction of the steps during which the fitted time grows from a tenth of it to all


@dataclass
class PINNTraining(TrainingConfig):
    """How the parameters of a pendulum are learned from the residual of its ODE."""

    residual_weight: float = 0.01  # of the mean squared residual, in the end
    growth: float = 0.5  # fraction of the steps during which it rises from 0
    collocation: int = 128  # times per step at which the residual is taken, drawn at random


@dataclass
class _Guess:
    """Where learning starts."""

    gravity_over_length: float = 5.0  # 1/s^2
    damping: float = 0.5  # 1/s


@dataclass
class NodePendulumConfig(ODESolverConfig, _Guess, PendulumTraining):
    """Parameters and initial states of pendulums, fitted through the solver (`deqzoo.models.PendulumODE`)."""

    kind: str = "node_pendulum"


@dataclass
class PINNPendulumConfig(ODESolverConfig, _Guess, PINNTraining):
    """A network for the angles of pendulums, and their parameters, by a residual loss (`PendulumPINN`)."""

    kind: str = "pinn_pendulum"
    hidden: int = 64  # width of the network
    frequencies: int = 20  # of its sines and cosines


@dataclass
class OrbitTraining(TrainingConfig):
    """How a law of motion is learned from orbits."""

    periods: int = 1000  # of the longest orbit, over which the test follows the true energy

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.periods < 1:
            raise ValueError(f"periods must be at least 1, got {self.periods}.")


@dataclass
class HamiltonianConfig(ODESolverConfig, OrbitTraining):
    """A learned energy, whose motion a symplectic solver follows (`deqzoo.models.HamiltonianOrbits`)."""

    kind: str = "hamiltonian"
    solver: str = "leapfrog"
    hidden: int = 32  # width of the perceptrons for T and V
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class NodeOrbitsConfig(ODESolverConfig, OrbitTraining):
    """A learned field that knows nothing of energy (`deqzoo.models.PlainOrbits`)."""

    kind: str = "node_orbits"
    solver: str = "rk4"
    hidden: int = 45  # width of the perceptron
