"""What the recipes of models that adapt to tasks, and of learned hyperparameters, may say; imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from deqzoo.models.common.config import TrainingConfig


@dataclass
class AdaptationConfig:
    """How a network is adapted to a task (`deqzoo.nn.adaptation`)."""

    method: str = "imaml"  # or maml, first_order
    # Of maml and first_order.
    inner_steps: int = 5
    inner_lr: float = 0.01
    checkpoint: bool = False  # maml: evaluate each inner step again in the backward pass, to save memory
    # Of imaml.
    strength: float = 1.0  # of the pull towards the start
    solver: str = "lbfgs"  # of the inner problem
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    linear_solver: str = "cg"  # of the meta-gradient
    linear_solver_options: dict[str, Any] = field(default_factory=dict)
    damping: float = 0.0  # added to the Hessian in the meta-gradient
    # How it runs.
    chunk: int | None = None  # tasks that are adapted at once; null: all


@dataclass
class MetaRegressionConfig(AdaptationConfig, TrainingConfig):
    """A perceptron that adapts to a regression task (`deqzoo.models.MetaLearner`), and its training."""

    kind: str = "meta_regression"
    hidden: list[int] = field(default_factory=lambda: [40, 40])  # units
    activation: str = "silu"  # or tanh, relu
    # Beside it.
    baselines: list[str] = field(default_factory=list)  # trained entries, to compare with in the card


@dataclass
class FewShotConfig(AdaptationConfig, TrainingConfig):
    """An image classifier that adapts to new classes (`deqzoo.models.MetaLearner`), and its training."""

    kind: str = "few_shot"
    width: int = 64  # channels of the convolutions
    activation: str = "silu"  # or softplus, relu
    zero_head: bool = False  # the head starts at zero in each task; else its start is learned, too


@dataclass
class LearnedDecayConfig(TrainingConfig):
    """Softmax regression with a learned decay per weight (`deqzoo.models.DecayLearner`), and its training."""

    kind: str = "learned_decay"
    filters: int = 16  # random ones, that make the features
    start: float = 1e-2  # of each decay
    solver: str = "lbfgs"  # of the inner problem
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    linear_solver: str = "cg"  # of the gradient
    linear_solver_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class CellSearchTraining(TrainingConfig):
    """How a cell is searched for."""

    last_temperature: float = 0.05  # of the mixtures, which falls geometrically from 1 over the steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.last_temperature <= 1:
            raise ValueError(f"last_temperature must lie in (0, 1], got {self.last_temperature}.")


@dataclass
class CellSearchConfig(CellSearchTraining):
    """A cell of mixed operations that are searched for (`deqzoo.models.CellSearch`), and its training."""

    kind: str = "cell_search"
    channels: int = 8  # of the cell
    strength: float = 1e-3  # of the penalty on the classifier's weights
    first_order: bool = False  # take the classifier for a constant in the gradient, as first-order DARTS does
    solver: str = "lbfgs"  # of the inner problem
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    linear_solver: str = "cg"  # of the gradient
    linear_solver_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataCleaningConfig(TrainingConfig):
    """Softmax regression with a learned weight an example (`deqzoo.models.DataCleaner`), and its training."""

    kind: str = "data_cleaning"
    strength: float = 1e-3  # of the penalty on the classifier's weights
    solver: str = "lbfgs"  # of the inner problem
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    linear_solver: str = "cg"  # of the gradient
    linear_solver_options: dict[str, Any] = field(default_factory=dict)
