"""What the recipes of pictures as networks may say; imports no torch."""

from dataclasses import dataclass, field

from deqzoo.models.common.config import FixedPointConfig, FixedPointTraining, TrainingConfig


@dataclass
class SirenConfig(TrainingConfig):
    """Pictures as networks of sines (`deqzoo.models.SirenPictures`) and how they are trained."""

    kind: str = "siren_pictures"
    widths: list[int] = field(default_factory=lambda: [23, 32, 46])  # ascending; each picture has a network of each
    layers: int = 3  # of sines
    frequency: float = 30.0  # by which the places are multiplied before the first sine


@dataclass
class ImplicitPictureConfig(FixedPointConfig, FixedPointTraining):
    """Pictures as equilibrium networks (`deqzoo.models.ImplicitPictures`) and how they are trained."""

    kind: str = "implicit_pictures"
    widths: list[int] = field(default_factory=lambda: [32, 45, 64])  # of the states, ascending
    frequency: float = 30.0  # by which the places are multiplied before the sine
    bound: float = 1.4  # of the norm of the matrices: below 1 the iteration converges for certain
    gain: float = 0.5  # of the matrices at the start, whose norm is about twice as large
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card
