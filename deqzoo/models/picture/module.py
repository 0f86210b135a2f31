"""Training of networks that represent pictures."""

from typing import Any, ClassVar

from torch import Tensor, nn

from deqzoo.models.common.config import FixedPointTraining, TrainingConfig
from deqzoo.models.common.deq_module import DEQModule
from deqzoo.models.common.images import psnr_of
from deqzoo.models.common.module import Batch, SolverModule, Step


class SirenModule(SolverModule):
    """Trains ``network`` by the mean squared error of colours, summed over pictures and widths.

    Each network has parameters of its own, so each is trained as if alone, of the same pixels. ``psnr`` is that of the
    largest width (dB), its mean over the pictures.
    """

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The sum of the mean squared errors, and the mean PSNR."""
        places, colours = batch
        errors = squared_errors(network(places), colours)
        return Step(errors.sum(), {"psnr": psnr_of(errors.detach())[-1].mean()}, places, len(places))


class ImplicitPictureModule(DEQModule):
    """As `SirenModule`, of equilibria."""

    Options: ClassVar[type[TrainingConfig]] = FixedPointTraining
    step: Any = SirenModule.step


def squared_errors(found: Tensor, colours: Tensor) -> Tensor:
    """Mean squared errors (widths, pictures) of colours found (N, widths, pictures, 3), which are (N, pictures, 3)."""
    return (found - colours.unsqueeze(1)).square().mean((0, 3))
