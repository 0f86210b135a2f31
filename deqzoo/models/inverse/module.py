"""Training of networks that undo a blur."""

from typing import ClassVar

from torch import nn
from torch.nn import functional as F

from deqzoo.models.common.config import FixedPointTraining, TrainingConfig
from deqzoo.models.common.deq_module import DEQModule
from deqzoo.models.common.module import Batch, Step
from deqzoo.models.inverse.blur import TEST_SEED, psnr


class DeblurModule(DEQModule):
    """Trains ``network`` by the mean squared error of what it makes of blurred images.

    A batch is images and labels, which are not looked at. The images are blurred, and noise is added: in training
    other noise each time, in validation and test the same always. ``psnr`` is the mean over the images (dB).
    """

    Options: ClassVar[type[TrainingConfig]] = FixedPointTraining

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The mean squared error, and the mean PSNR."""
        images = batch[0]
        measured = network.blur.measured(images, None if stage == "train" else TEST_SEED)  # type: ignore[union-attr, operator]
        restored = network(measured)
        metrics = {"psnr": psnr(restored.detach(), images).mean()}
        return Step(F.mse_loss(restored, images), metrics, measured, len(images))
