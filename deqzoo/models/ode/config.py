"""What the recipes of classifiers by neural ODEs, and latent ODEs may say; imports no torch."""

from dataclasses import dataclass, field

from deqzoo.models.common.config import ClassifierTraining, ODESolverConfig, TrainingConfig


@dataclass
class ODETraining(ClassifierTraining):
    """How a classifier of ODE layers is trained. The penalties keep the solves short (RNODE)."""

    kinetic_penalty: float = 0.0  # factor of the integral of |f|^2 / dim
    jacobian_penalty: float = 0.0  # factor of the integral of ||df/dy||^2 / dim, by one draw of Hutchinson's estimate


@dataclass
class ODEClassifierConfig(ODESolverConfig, ODETraining):
    """An image classifier by a neural ODE (`deqzoo.models.ode_net`, `deqzoo.models.anode_net`) and its training."""

    kind: str = "ode_classifier"
    # The network.
    body: str = "ode_net"  # or anode_net
    width: int = 64  # channels; of anode_net: those inside the dynamics
    groups: int = 32  # of ode_net's group norms
    augment: int = 0  # channels of zeros that the ODE's state has besides
    # How it runs.
    channels_last: bool = False


@dataclass
class ODEPointClassifierConfig(ODESolverConfig, ODETraining):
    """A classifier of points by a neural ODE (`deqzoo.models.point_classifier`) and its training."""

    kind: str = "ode_point_classifier"
    # The network.
    hidden: int = 32  # width of the dynamics' MLP
    activation: str = "relu"  # of it: relu, tanh, softplus, elu
    augment: int = 0  # dimensions of zeros that the ODE's state has besides


@dataclass
class LatentODETraining(TrainingConfig):
    """How a latent ODE is trained and tested."""

    kl_weight: float = 1.0  # of the divergence from the prior, in the end
    kl_annealing: float = 0.0  # fraction of the steps during which it rises from 0
    consistency_weight: float = 0.0  # of `LatentODE.inconsistency`, which makes predictions beyond the window better
    min_observed_fraction: float = 1.0  # of the window that the encoder sees in training, drawn from here to 1
    hidden_by: str = "times"  # the rest is hidden as whole times, or as single values
    observed_fractions: list[float] = field(default_factory=lambda: [1.0])  # of the window in tests; 1 is among them
    relative_errors: bool = False  # in units of each channel's standard deviation, instead of their own

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_by not in ("times", "values"):
            raise ValueError(f"hidden_by={self.hidden_by}: valid are times, values.")
        for name in ("min_observed_fraction", "kl_annealing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        fractions = list(self.observed_fractions)
        if 1.0 not in fractions or not all(0 < fraction <= 1 for fraction in fractions):
            raise ValueError(f"observed_fractions must lie in (0, 1], with 1 among them; got {fractions}.")


@dataclass
class LatentODEConfig(ODESolverConfig, LatentODETraining):
    """A latent ODE of series (`deqzoo.models.LatentODE`), or its recurrent baseline, and its training."""

    kind: str = "latent_ode"
    # The network.
    latent: int = 4  # dimensions of the latent state
    hidden: int = 20  # width of dynamics and decoder
    width: int = 25  # of the encoder's hidden state
    encoder: str = "gru"  # or ode_rnn
    dynamics: str = "ode"  # or gru: the baseline that a latent ODE is compared with
    noise: float | None = None  # standard deviation of the observations; null: learned, per channel
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consistency_weight and self.dynamics == "gru":
            raise ValueError("consistency_weight needs dynamics that do not depend on time: ode; with gru it is 0.")


@dataclass
class SeriesClassifierTraining(ClassifierTraining):
    """How a classifier of series with missing values is trained and tested."""

    # Of the values, tested at each; in training the fraction is drawn for each series between least and largest.
    dropped_fractions: list[float] = field(default_factory=lambda: [0.3, 0.5, 0.7])
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card

    def __post_init__(self) -> None:
        super().__post_init__()
        fractions = list(self.dropped_fractions)
        if not fractions or fractions != sorted(set(fractions)) or not all(0 <= value < 1 for value in fractions):
            raise ValueError(f"dropped_fractions must lie in [0, 1), from least to largest; got {fractions}.")


@dataclass
class NeuralCDEConfig(ODESolverConfig, SeriesClassifierTraining):
    """A classifier of series by a neural CDE (`deqzoo.models.NeuralCDEClassifier`) and its training."""

    kind: str = "neural_cde"
    # The network.
    hidden: int = 16  # of the state
    width: int = 32  # of the field's MLP
    interpolation: str = "hermite"  # or natural, linear


@dataclass
class GRUDConfig(SeriesClassifierTraining):
    """A classifier of series by a GRU-D (`deqzoo.models.GRUDClassifier`) and its training."""

    kind: str = "gru_d"
    width: int = 37  # of the hidden state


@dataclass
class StayTraining(TrainingConfig):
    """How a network that reads stays in intensive care is trained."""

    hidden_fraction: float = 0.0  # in training up to so much of each stay is hidden, a part that is drawn anew
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hidden_fraction < 1:
            raise ValueError(f"hidden_fraction must lie in [0, 1), got {self.hidden_fraction}.")


@dataclass
class LatentStayTraining(StayTraining):
    """How a latent ODE of stays is trained."""

    classification_weight: float = 100.0  # of the cross-entropy, beside the bound; 0: no classes are learned
    kl_weight: float = 1.0  # of the divergence from the prior, in the end
    kl_annealing: float = 0.3  # fraction of the steps during which it rises from 0


@dataclass
class LatentODEStaysConfig(ODESolverConfig, LatentStayTraining):
    """A latent ODE of stays that tells who dies (`deqzoo.models.LatentODEClassifier`), and its training."""

    kind: str = "latent_ode_stays"
    # The network.
    latent: int = 20  # dimensions of the latent state
    hidden: int = 50  # width of dynamics, decoder and head
    width: int = 40  # of the encoder's hidden state
    encoder: str = "ode_rnn"  # or gru
    dynamics: str = "ode"  # or gru
    noise: float = 0.01  # standard deviation of the observations, as a part of a channel's range


@dataclass
class LatentODEInterpolationConfig(LatentODEStaysConfig):
    """The same, judged by how well it gives back what was measured."""

    kind: str = "latent_ode_interpolation"
    classification_weight: float = 0.0


@dataclass
class GRUDStaysConfig(StayTraining):
    """A GRU-D that tells who dies (`deqzoo.models.GRUDClassifier`), and its training."""

    kind: str = "gru_d_stays"
    width: int = 50  # of the hidden state
    clip: float = 5.0  # values count as at most so many standard deviations from the mean
