"""What the recipes of continuous flows may say; imports no torch."""

from dataclasses import dataclass, field

from deqzoo.models.common.config import ODESolverConfig, TrainingConfig

OBJECTIVES = ("likelihood", "flow_matching")
COUPLINGS = ("independent", "optimal_transport")
INTERPOLANTS = ("linear", "trigonometric")


@dataclass
class FlowTraining(TrainingConfig):
    """How a continuous flow is trained; its likelihood is by the ODE always."""

    objective: str = "likelihood"  # through the ODE; or flow_matching: regression on velocities, without a solve
    # objective=likelihood. The penalties keep the solves short (RNODE).
    train_tol: float | None = None  # rtol and atol of the solves in training; null: those of the solver_options
    kinetic_penalty: float = 0.0  # factor of the integral of |f|^2 / dim
    jacobian_penalty: float = 0.0  # factor of the integral of ||df/dx||_F^2 / dim
    # objective=flow_matching.
    coupling: str = "independent"  # of noise and data; or optimal_transport, within parts of a batch
    interpolant: str = "linear"  # the way from noise to data; or trigonometric: of the same variance all along

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = (("objective", OBJECTIVES), ("coupling", COUPLINGS), ("interpolant", INTERPOLANTS))
        for name, valid in settings:
            if getattr(self, name) not in valid:
                raise ValueError(f"{name}={getattr(self, name)}: valid are {', '.join(valid)}.")


@dataclass
class ImageFlowTraining(FlowTraining):
    """How a continuous flow of images is trained."""

    whiten: bool = True  # body=flat starts from the mean and the covariance of the training images


@dataclass
class FlowConfig(ODESolverConfig, FlowTraining):
    """A continuous flow of points (`deqzoo.nn.ContinuousFlow`) and its training."""

    kind: str = "flow"
    # The network.
    hidden: list[int] = field(default_factory=lambda: [64, 64, 64])  # widths of the dynamics
    activation: str = "tanh"  # of them: silu, softplus, tanh
    input_scale: float = 1.0  # of the first layer's initial weights: above 1, fine detail is learned sooner
    divergence: str = "exact"  # in training; or gaussian, rademacher: Hutchinson's estimate


@dataclass
class ImageFlowConfig(ODESolverConfig, ImageFlowTraining):
    """A continuous flow of images (`deqzoo.models.ImageFlow`) and its training."""

    kind: str = "image_flow"
    # The network.
    body: str = "multiscale"  # ODEs of convolutions at several resolutions; or one ODE of all pixels, by an MLP
    # (flat) or a U-Net (unet)
    scales: int = 3  # resolutions of body=multiscale
    blocks: int = 2  # at each resolution: ODEs one after the other (multiscale), residual blocks each way (unet)
    hidden: list[int] = field(default_factory=lambda: [64, 64, 64])  # channels or units of the dynamics; of body=unet
    # those at each resolution
    activation: str = "softplus"  # of multiscale and flat: silu, softplus, tanh
    input_scale: float = 1.0  # of body=flat, of the first layer's initial weights: above 1, detail is learned sooner
    pixels: str = "logit"  # how they become real numbers; or gaussianization: each by its own histogram
    alpha: float = 1e-6  # pixels=logit: keeps it away from 0 and 1
    divergence: str = "rademacher"  # in training; or gaussian, exact
    eval_divergence: str = "rademacher"  # in validation and test
