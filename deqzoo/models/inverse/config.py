"""What the recipes of inverse problems may say; imports no torch."""

from dataclasses import dataclass

from deqzoo.models.common.config import FixedPointConfig, FixedPointTraining


@dataclass
class DeblurConfig(FixedPointConfig, FixedPointTraining):
    """An equilibrium that undoes a blur (`deqzoo.models.DeblurNetwork`) and how it is trained."""

    kind: str = "deblur"
    # What is measured.
    blur_size: int = 9  # side of the Gaussian kernel, in pixels
    blur_variance: float = 5.0  # of the Gaussian, in squared pixels
    noise: float = 0.01  # standard deviation, of pixels in [0, 1]
    # The network.
    width: int = 32  # channels inside of the regulariser
    depth: int = 4  # its convolutions
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card
