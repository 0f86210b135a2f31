"""What the settings of several kinds have in common: training, and the solves of ODEs; imports no torch."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Optimizer(Enum):
    """Optimisers of the recipes."""

    adamw = "adamw"
    sgd = "sgd"
    muon = "muon"  # of matrices and kernels; what is in `parameter_groups` is stepped by SGD or Adam


class Schedule(Enum):
    """Learning rate over the steps of a run."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"
    one_cycle = "one_cycle"


@dataclass
class ParameterGroup:
    """Parameters that are stepped in another way than the rest, chosen by their names in the network."""

    match: str = "*"  # as of file names: * and ?
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    adaptive: bool = False  # muon only: Adam's step, of betas (momentum, .95), in place of SGD's


@dataclass
class TrainingConfig:
    """How any model is trained (`deqzoo.models.common.module.SolverModule`)."""

    optimizer: Optimizer = Optimizer.adamw
    lr: float = 1e-3  # the highest of the schedule
    weight_decay: float = 1e-4  # of matrices and kernels; biases and norms have none
    momentum: float = 0.9  # sgd and muon only
    optimizer_options: dict[str, Any] = field(default_factory=dict)  # of muon: steps, unit_rows
    parameter_groups: list[ParameterGroup] = field(default_factory=list)  # a parameter belongs to the first that fits
    train_only: list[str] = field(default_factory=list)  # names of the parameters that are trained, * and ?; empty: all
    schedule: Schedule = Schedule.cosine
    warmup: float = 0.05  # fraction of the steps during which lr rises (one_cycle: .3 is usual)
    ema_decay: float = 0.0  # of the weights' moving average that is tested and exported; 0: none
    lookahead_every: int = 0  # steps after which the weights return to their moving average; 0: never
    lookahead_decay: float = 0.95  # of that average, per step, in the end; as the cube of the time until then

    def __post_init__(self) -> None:
        self.optimizer, self.schedule = Optimizer(self.optimizer), Schedule(self.schedule)
        self.parameter_groups = [
            group if isinstance(group, ParameterGroup) else ParameterGroup(**group) for group in self.parameter_groups
        ]
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
        if self.lookahead_every < 0 or not 0 <= self.lookahead_decay < 1:
            raise ValueError(
                f"lookahead_every must not be negative and lookahead_decay lie in [0, 1), got {self.lookahead_every} "
                f"and {self.lookahead_decay}."
            )


@dataclass
class ODESolverConfig:
    """How the ODEs of a network are solved, forward and backward."""

    solver: str = "tsit5"
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    adjoint: str = "discrete"
    adjoint_options: dict[str, Any] = field(default_factory=dict)  # the fields of the adjoint's dataclass
    compile: bool | None = None  # the dynamics; null: on CUDA


@dataclass
class ClassifierTraining(TrainingConfig):
    """How a classifier is trained."""

    label_smoothing: float = 0.0


@dataclass
class FixedPointTraining(TrainingConfig):
    """How any model of DEQ layers is trained."""

    jacobian_penalty: float = 0.0  # factor of ||df/dz||^2: keeps the solves short
    jacobian_samples: int | None = None  # of each batch, on which it is estimated; null: all
    train_max_steps: int | None = None  # of a solve in training; null: max_steps of the solver_options
    train_tol: float | None = None  # of a solve in training; null: tol of the solver_options
    unrolled_steps: int = 0  # training steps at the start in which iterations on the tape replace each solve
    unrolled_depth: int = 10  # iterations in such a step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unrolled_steps < 0 or self.unrolled_depth < 1:
            raise ValueError("unrolled_steps must not be negative, and unrolled_depth must be at least 1.")
        if self.jacobian_samples is not None and self.jacobian_samples < 1:
            raise ValueError(f"jacobian_samples must be at least 1, or null for all; got {self.jacobian_samples}.")
        if self.train_max_steps is not None and self.train_max_steps < 0:
            raise ValueError(f"train_max_steps must not be negative, got {self.train_max_steps}.")


@dataclass
class FixedPointConfig:
    """How the equilibria of a network are solved, forward and backward."""

    solver: str = "anderson"
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    adjoint: str = "implicit"
    adjoint_options: dict[str, Any] = field(default_factory=dict)  # also linear_solver, linear_solver_options
    compile: bool | None = None  # the cells; null: on CUDA
