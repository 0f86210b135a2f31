"""What the recipes of image classifiers of DEQ layers, and their explicit baselines may say; imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from deqzoo.models.common.config import ClassifierTraining, FixedPointConfig, FixedPointTraining, TrainingConfig


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
class ImageDEQConfig(FixedPointConfig, DEQTraining):
    """What the image classifiers of DEQ layers have in common."""

    widths: list[int] = field(default_factory=lambda: [32])  # channels
    # How it runs.
    channels_last: bool = True  # faster convolutions, on GPUs and CPUs alike
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class DEQClassifierConfig(ImageDEQConfig):
    """An image classifier of DEQ stages, one per width (`deqzoo.models.DEQClassifier`), and how it is trained."""

    kind: str = "deq_classifier"
    # The network.
    cell: str = "residual"  # its name in `deqzoo.nn.CELLS`
    cell_options: dict[str, Any] = field(default_factory=dict)  # the parameters of the cell's constructor
    stem: int = 0  # channels of a convolution at full resolution before the stages; 0: none
    entry_kernel: int = 3  # of the convolutions between the stages, 2 or 3
    entry_norm: str = "group"  # or batch: of those convolutions, the stem and the head
    entry_groups: int = 8  # of entry_norm=group
    flip_equivariant: bool = False  # an image and its mirror image have the same logits, by tied weights


@dataclass
class ContractiveClassifierConfig(FixedPointConfig, DEQTraining):
    """An image classifier of well-posed equilibria (`deqzoo.models.contractive_net`), or its explicit baseline."""

    kind: str = "contractive_classifier"
    # The network.
    widths: list[int] = field(default_factory=lambda: [32, 128, 128])  # channels, one stage per width
    body: str = "equilibrium"  # or once: each cell applied once; or explicit: layers with the same number of parameters
    halve_first: bool = True  # the first stage halves the resolution, too
    flip_equivariant: bool = False  # an image and its mirror image have the same logits, by tied weights
    rho_max: float = 0.9  # bound of the cells' Lipschitz constants
    rho: float = 0.7  # with which they start
    # How it runs.
    channels_last: bool = True  # faster convolutions, on GPUs and CPUs alike
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class MDEQClassifierConfig(ImageDEQConfig):
    """An image classifier of one multiscale equilibrium (`deqzoo.models.MDEQClassifier`) and how it is trained."""

    kind: str = "mdeq_classifier"
    # The network.
    widths: list[int] = field(default_factory=lambda: [24, 24])  # channels, one resolution per width
    blocks: int = 1  # residual blocks in each resolution
    expansion: float = 5.0  # inner channels of a block over its width
    groups: int = 8  # of the blocks' group norms
    dropout: float = 0.0  # of a block's channels, one mask per solve
    weight_norm: bool = True  # of the kernels
    head_widths: list[int] = field(default_factory=lambda: [8, 16])  # inner channels of the head's bottlenecks
    final_width: int = 200  # channels before the pooling


@dataclass
class ConvClassifierConfig(ClassifierTraining):
    """A plain convolutional classifier (`deqzoo.models.conv_net`), to compare with, and how it is trained."""

    kind: str = "conv_classifier"
    width: int = 64  # channels
    depth: int = 2  # convolutions after the one that takes the image
    stride: int = 1  # of the one that takes the image
    grid: int = 4  # the head sees averages of grid x grid parts of the image


@dataclass
class ResidualClassifierConfig(ClassifierTraining):
    """An explicit residual classifier (`deqzoo.models.residual_net`), to compare with, and how it is trained."""

    kind: str = "residual_classifier"
    widths: list[int] = field(default_factory=lambda: [64])  # channels, one stage per width
    depth: int = 1  # residual layers of a stage
    stem: int = 32  # channels of the convolution at full resolution
    groups: int = 8  # of the group norms
    dropout: float = 0.0  # of a layer's channels
    flip_equivariant: bool = False  # as in a DEQClassifierConfig
    channels_last: bool = True  # faster convolutions, on GPUs and CPUs alike


@dataclass
class MonDEQTraining(FixedPointTraining, ClassifierTraining):
    """How a classifier with a monDEQ is trained."""


@dataclass
class MonDEQClassifierConfig(MonDEQTraining):
    """An image classifier with a monDEQ (`deqzoo.models.mondeq_conv`, `deqzoo.models.mondeq_fc`) and its training."""

    kind: str = "mondeq_classifier"
    # The network.
    body: str = "conv"  # conv: one tier per width; or fc: fully connected
    widths: list[int] = field(default_factory=lambda: [64])  # channels of the tiers; of fc: its units
    margin: float = 1.0  # m > 0 of the strong monotonicity
    stride: int = 1  # of the convolution that injects the image
    grid: int = 4  # the head sees the last tier averaged to grid x grid positions
    solver: str = "peaceman_rachford"
    solver_options: dict[str, Any] = field(default_factory=dict)  # the fields of the solver's dataclass
    adjoint: str = "implicit"
    adjoint_options: dict[str, Any] = field(default_factory=dict)  # also linear_solver, linear_solver_options
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card
