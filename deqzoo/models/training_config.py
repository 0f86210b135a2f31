"""What the settings of several kinds have in common: training, and the solves of ODEs; imports no torch."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Optimizer(Enum):
    """Optimisers of the recipes."""

    adamw = "adamw"
    sgd = "sgd"


class Schedule(Enum):
    """Learning rate over the steps of a run."""

    constant = "constant"
    cosine = "cosine"
    one_cycle = "one_cycle"


@dataclass
class TrainingConfig:
    """How any model is trained (`deqzoo.models.module.SolverModule`)."""

    optimizer: Optimizer = Optimizer.adamw
    lr: float = 1e-3  # the highest of the schedule
    weight_decay: float = 1e-4  # of matrices and kernels; biases and norms have none
    momentum: float = 0.9  # sgd only
    schedule: Schedule = Schedule.cosine
    warmup: float = 0.05  # fraction of the steps during which lr rises (one_cycle: .3 is usual)
    ema_decay: float = 0.0  # of the weights' moving average that is tested and exported; 0: none

    def __post_init__(self) -> None:
        self.optimizer, self.schedule = Optimizer(self.optimizer), Schedule(self.schedule)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")


@dataclass
class ODESolverConfig:
    """How the ODEs of a network are solved, forward and backward."""

    solver: str = "tsit5"
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    adjoint: str = "discrete"
    adjoint_options: dict[str, Any] = field(default_factory=dict)  # the fields of the adjoint's dataclass
    compile: bool | None = None  # the dynamics; null: on CUDA
