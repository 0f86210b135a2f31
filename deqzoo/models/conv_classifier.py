"""The kind ``conv_classifier``: plain convolutional networks, with which equilibria are compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from deqzoo.data.info import ImageInfo
from deqzoo.models.config import ConvClassifierConfig
from deqzoo.models.deq_classifier import image_example
from deqzoo.models.kinds import EQUILIBRIA, Kind, Trained
from deqzoo.nn import conv_net

if TYPE_CHECKING:
    from deqzoo.models.module import SolverModule


class ConvClassifierKind(Kind):
    """Images in, logits out, nothing to be solved."""

    family = EQUILIBRIA
    info = ImageInfo
    metric = "accuracy"
    takes = "raw images in [0, 1] -> logits"

    def network(self, settings: ConvClassifierConfig, info: ImageInfo) -> nn.Module:
        """See `deqzoo.nn.conv_net`."""
        return conv_net(
            info.classes,
            info.mean,
            info.std,
            width=settings.width,
            depth=settings.depth,
            stride=settings.stride,
            grid=settings.grid,
        )

    def module(self, network: nn.Module, settings: ConvClassifierConfig) -> "SolverModule":
        """Cross-entropy."""
        from deqzoo.models.classifier import Classifier

        return Classifier.of(network, settings)

    def example(self, info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images."""
        return image_example(info, batch)

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training."""
        from deqzoo.plots import PANELS, plot_training

        plot_training(trained.history, folder / "training.png", {"accuracy": PANELS["accuracy"]})


KIND = ConvClassifierKind()
