"""What the recipes of ``models/`` may say: one dataclass for each kind of model; imports no torch.

The training options are declared once, in the ``...Training`` classes; the LightningModules read them there. A kind is
a dataclass that adds its ``kind`` and the options of its network, entered in `MODEL_KINDS`.
"""

from dataclasses import dataclass, field
from typing import Any

from deqzoo.models.flow_config import FlowConfig, ImageFlowConfig
from deqzoo.models.training_config import ODESolverConfig as ODESolverConfig
from deqzoo.models.training_config import Optimizer as Optimizer
from deqzoo.models.training_config import Schedule as Schedule
from deqzoo.models.training_config import TrainingConfig as TrainingConfig


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
    unrolled_steps: int = 0  # so many training steps come first, with each solve replaced by iterations on the tape
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
class FixedPointCorrection(TrainingConfig):
    """Losses of a classifier of DEQ layers before the fixed point is reached."""

    correction_steps: list[int] = field(default_factory=list)  # of the last solve, after which there is a loss, too
    correction_decay: float = 0.8  # factor of the last such loss; of those before, one power more each

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.correction_decay <= 1:
            raise ValueError(f"correction_decay must lie in (0, 1], got {self.correction_decay}.")


@dataclass
class DEQTraining(FixedPointTraining, FixedPointCorrection, ClassifierTraining):
    """How a classifier of images by DEQ layers is trained and tested."""

    flip_at_test: bool = False  # test images are also classified together with their mirror images, as `accuracy_flip`


@dataclass
class ODETraining(ClassifierTraining):
    """How a classifier of ODE layers is trained. The penalties keep the solves short (RNODE)."""

    kinetic_penalty: float = 0.0  # factor of the integral of |f|^2 / dim
    jacobian_penalty: float = 0.0  # factor of the integral of ||df/dy||^2 / dim, by one draw of Hutchinson's estimate


@dataclass
class FixedPointConfig:
    """How the equilibria of a network are solved, forward and backward."""

    solver: str = "anderson"
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    gradient: str = "implicit"
    gradient_options: dict[str, Any] = field(default_factory=dict)  # also linear_solver, linear_solver_options
    compile: bool | None = None  # the cells; null: on CUDA


@dataclass
class ImageDEQConfig(FixedPointConfig, DEQTraining):
    """What the image classifiers of DEQ layers have in common."""

    widths: list[int] = field(default_factory=lambda: [32])  # channels
    expansion: float = 1.0  # inner channels of a residual cell over its width
    groups: int = 8  # of the group norms
    dropout: float = 0.0  # of a cell's channels, one mask a solve
    weight_norm: bool = False  # of a cell's kernels
    # How it runs.
    channels_last: bool = True  # faster convolutions, on GPUs and CPUs alike
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class DEQClassifierConfig(ImageDEQConfig):
    """An image classifier of DEQ stages, one a width (`deqzoo.nn.DEQClassifier`), and how it is trained."""

    kind: str = "deq_classifier"
    # The network.
    cell: str = "residual"  # or plain: one convolution
    stem: int = 0  # channels of a convolution at full resolution before the stages; 0: none
    entry_kernel: int = 3  # of the convolutions between the stages, 2 or 3
    entry_norm: str = "group"  # or batch: of those convolutions, the stem and the head
    mirror: bool = False  # an image and its mirror image have the same logits, by tied weights


@dataclass
class ContractiveClassifierConfig(FixedPointConfig, DEQTraining):
    """An image classifier of well-posed equilibria (`deqzoo.nn.contractive_net`), or its explicit twin."""

    kind: str = "contractive_classifier"
    # The network.
    widths: list[int] = field(default_factory=lambda: [32, 128, 128])  # channels, one stage a width
    body: str = "equilibrium"  # or once: each cell applied once; or explicit: layers of as many parameters
    halve_first: bool = True  # the first stage halves the resolution, too
    mirror: bool = False  # an image and its mirror image have the same logits, by tied weights
    rho_max: float = 0.9  # bound of the cells' Lipschitz constants
    rho: float = 0.7  # with which they start
    # How it runs.
    channels_last: bool = True  # faster convolutions, on GPUs and CPUs alike
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class MDEQClassifierConfig(ImageDEQConfig):
    """An image classifier of one multiscale equilibrium (`deqzoo.nn.MDEQClassifier`) and how it is trained."""

    kind: str = "mdeq_classifier"
    # The network.
    widths: list[int] = field(default_factory=lambda: [24, 24])  # channels, one resolution a width
    expansion: float = 5.0  # inner channels of a block over its width
    weight_norm: bool = True
    blocks: int = 1  # residual blocks in each resolution
    head_widths: list[int] = field(default_factory=lambda: [8, 16])  # inner channels of the head's bottlenecks
    final_width: int = 200  # channels before the pooling


@dataclass
class ImplicitGraphConfig(FixedPointConfig, ClassifierTraining):
    """A classifier of nodes by an equilibrium (`deqzoo.nn.ImplicitGraphNetwork`) and how it is trained."""

    kind: str = "implicit_graph"
    # The network.
    hidden: int = 16  # features of a state
    kappa: float = 0.99  # below 1: how near to losing its well-posedness the equilibrium may come
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class GraphConvolutionConfig(ClassifierTraining):
    """A classifier of nodes by graph convolutions (`deqzoo.nn.GraphConvolutionNetwork`) and how it is trained."""

    kind: str = "graph_convolution"
    hidden: int = 16  # features of a state
    depth: int = 2  # convolutions


@dataclass
class ConvClassifierConfig(ClassifierTraining):
    """A plain convolutional classifier (`deqzoo.nn.conv_net`), to compare with, and how it is trained."""

    kind: str = "conv_classifier"
    width: int = 64  # channels
    depth: int = 2  # convolutions after the one that takes the image
    stride: int = 1  # of the one that takes the image
    grid: int = 4  # the head sees averages of grid x grid parts of the image


@dataclass
class ResidualClassifierConfig(ClassifierTraining):
    """An explicit residual classifier (`deqzoo.nn.residual_net`), to compare with, and how it is trained."""

    kind: str = "residual_classifier"
    widths: list[int] = field(default_factory=lambda: [64])  # channels, one stage a width
    depth: int = 1  # residual layers of a stage
    stem: int = 32  # channels of the convolution at full resolution
    groups: int = 8  # of the group norms
    dropout: float = 0.0  # of a layer's channels
    mirror: bool = False  # as in a DEQClassifierConfig
    channels_last: bool = True  # faster convolutions, on GPUs and CPUs alike


@dataclass
class MonDEQClassifierConfig(ClassifierTraining):
    """An image classifier with a monDEQ (`deqzoo.nn.mondeq_conv`, `deqzoo.nn.mondeq_fc`) and how it is trained."""

    kind: str = "mondeq_classifier"
    # The network.
    body: str = "conv"  # conv: one tier a width; or fc: fully connected
    widths: list[int] = field(default_factory=lambda: [64])  # channels of the tiers; of fc: its units
    margin: float = 1.0  # m > 0 of the strong monotonicity
    stride: int = 1  # of the convolution that injects the image
    grid: int = 4  # the head sees the last tier averaged to grid x grid positions
    solver: str = "peaceman_rachford"
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    gradient: str = "implicit"
    gradient_options: dict[str, Any] = field(default_factory=dict)  # also linear_solver, linear_solver_options
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class ODEClassifierConfig(ODESolverConfig, ODETraining):
    """An image classifier whose body is a neural ODE (`deqzoo.nn.ode_net`, `deqzoo.nn.anode_net`) and its training."""

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
    """A classifier of points by a neural ODE (`deqzoo.nn.point_classifier`) and its training."""

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
    least_shown: float = 1.0  # share of the window shown to the encoder in training, drawn from here to 1
    hidden_by: str = "times"  # the rest is hidden as whole times, or as single values
    shares: list[float] = field(default_factory=lambda: [1.0])  # those it is tested with; 1 is among them
    relative_errors: bool = False  # in units of each channel's standard deviation, instead of their own

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_by not in ("times", "values"):
            raise ValueError(f"hidden_by={self.hidden_by}: valid are times, values.")
        for name in ("least_shown", "kl_annealing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if 1.0 not in self.shares or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"shares must lie in (0, 1], with 1 among them; got {list(self.shares)}.")


@dataclass
class LatentODEConfig(ODESolverConfig, LatentODETraining):
    """A latent ODE of series (`deqzoo.nn.LatentODE`), or its recurrent twin, and its training."""

    kind: str = "latent_ode"
    # The network.
    latent: int = 4  # dimensions of the latent state
    hidden: int = 20  # width of dynamics and decoder
    width: int = 25  # of the encoder's hidden state
    encoder: str = "gru"  # or ode_rnn
    dynamics: str = "ode"  # or gru: the twin that a latent ODE is compared with
    noise: float | None = None  # standard deviation of the observations; null: learned, a channel
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class PendulumTraining(TrainingConfig):
    """How the parameters of a pendulum are learned through the solver."""

    growth: float = 0.3  # fraction of the steps during which the fitted time grows from a tenth of it to all


@dataclass
class PINNTraining(TrainingConfig):
    """How the parameters of a pendulum are learned from the residual of its ODE."""

    residual_weight: float = 0.01  # of the mean squared residual, in the end
    growth: float = 0.5  # fraction of the steps during which it rises from 0
    collocation: int = 128  # times a step at which the residual is taken, drawn at random


@dataclass
class _Guess:
    """Where learning starts."""

    gravity_over_length: float = 5.0  # 1/s^2
    damping: float = 0.5  # 1/s


@dataclass
class NodePendulumConfig(ODESolverConfig, _Guess, PendulumTraining):
    """Parameters and initial states of pendulums, fitted through the solver (`deqzoo.nn.PendulumODE`)."""

    kind: str = "node_pendulum"


@dataclass
class PINNPendulumConfig(ODESolverConfig, _Guess, PINNTraining):
    """A network for the angles of pendulums, and their parameters, by a residual loss (`deqzoo.nn.PendulumPINN`)."""

    kind: str = "pinn_pendulum"
    hidden: int = 64  # width of the network
    frequencies: int = 20  # of its sines and cosines


@dataclass
class LanguageModelConfig(FixedPointConfig, FixedPointTraining):
    """A language model of an equilibrium, or its explicit twin, and its training.

    It is a `deqzoo.nn.ContractiveLanguageModel` or, of cell "transformer", a `deqzoo.nn.LanguageModel`.
    """

    kind: str = "language_model"
    # The network.
    cell: str = "transformer"  # or contractive
    width: int = 128  # channels
    heads: int = 4  # of the attention
    # With a contractive cell.
    features: int = 64  # channels of the embedding
    context: int = 4  # tokens by which a position attends: itself and those before
    size: int = 16  # of queries and keys
    rho_max: float = 0.9  # bound of the cell's Lipschitz constant
    rho: float = 0.7  # with which it starts
    # With a transformer cell.
    expansion: float = 4.0  # inner channels of a cell over its width
    dropout: float = 0.0
    layers: int = 0  # explicit layers in place of the equilibrium; 0: none
    tied: bool = False  # the head's weights are those of the embedding
    # Beside it.
    baselines: list[str] = field(default_factory=list)  # trained entries for the same data, to compare with in the card


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
    """A perceptron that adapts to a regression task (`deqzoo.nn.MetaLearner`), and its training."""

    kind: str = "meta_regression"
    hidden: list[int] = field(default_factory=lambda: [40, 40])  # units
    activation: str = "silu"  # or tanh, relu
    # Beside it.
    baselines: list[str] = field(default_factory=list)  # trained entries, to compare with in the card


@dataclass
class FewShotConfig(AdaptationConfig, TrainingConfig):
    """An image classifier that adapts to new classes (`deqzoo.nn.MetaLearner`), and its training."""

    kind: str = "few_shot"
    width: int = 64  # channels of the convolutions
    activation: str = "silu"  # or softplus, relu
    zero_head: bool = False  # the head starts at zero in each task; else its start is learned, too


@dataclass
class DataCleaningConfig(TrainingConfig):
    """Softmax regression with a learned weight an example (`deqzoo.nn.DataCleaner`), and its training."""

    kind: str = "data_cleaning"
    strength: float = 1e-3  # of the penalty on the classifier's weights
    solver: str = "lbfgs"  # of the inner problem
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    linear_solver: str = "cg"  # of the gradient
    linear_solver_options: dict[str, Any] = field(default_factory=dict)


MODEL_KINDS: dict[str, type] = {
    "graph_convolution": GraphConvolutionConfig,
    "implicit_graph": ImplicitGraphConfig,
    "deq_classifier": DEQClassifierConfig,
    "contractive_classifier": ContractiveClassifierConfig,
    "mdeq_classifier": MDEQClassifierConfig,
    "conv_classifier": ConvClassifierConfig,
    "residual_classifier": ResidualClassifierConfig,
    "mondeq_classifier": MonDEQClassifierConfig,
    "ode_classifier": ODEClassifierConfig,
    "ode_point_classifier": ODEPointClassifierConfig,
    "latent_ode": LatentODEConfig,
    "node_pendulum": NodePendulumConfig,
    "pinn_pendulum": PINNPendulumConfig,
    "language_model": LanguageModelConfig,
    "flow": FlowConfig,
    "meta_regression": MetaRegressionConfig,
    "few_shot": FewShotConfig,
    "data_cleaning": DataCleaningConfig,
    "image_flow": ImageFlowConfig,
}
