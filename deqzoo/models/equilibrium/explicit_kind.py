"""The kinds ``conv_classifier`` and ``residual_classifier``: explicit networks, with which equilibria are compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from deqzoo.data.info import ImageInfo
from deqzoo.models.common.images import image_example, symmetry_facts
from deqzoo.models.common.kind import EQUILIBRIA, Kind, Trained
from deqzoo.models.common.options import construct
from deqzoo.models.equilibrium.config import ConvClassifierConfig, ResidualClassifierConfig
from deqzoo.models.equilibrium.explicit_network import conv_net, residual_net

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


class ConvClassifierKind(Kind):
    """Images in, logits out, nothing to be solved."""

    family = EQUILIBRIA
    info = ImageInfo
    metric = "accuracy"
    takes = "raw images in [0, 1] -> logits"

    def network(self, settings: ConvClassifierConfig, info: ImageInfo) -> nn.Module:
        """See `deqzoo.models.conv_net`."""
        return construct(conv_net, settings, info)

    def module(self, network: nn.Module, settings: ConvClassifierConfig) -> "SolverModule":
        """Cross-entropy."""
        from deqzoo.models.common.classifier_module import Classifier

        return Classifier.of(network, settings)

    def example(self, info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images."""
        return image_example(info, batch)

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training."""
        from deqzoo.plots import PANELS, plot_training

        plot_training(trained.history, folder / "training.png", {"accuracy": PANELS["accuracy"]})


class ResidualClassifierKind(ConvClassifierKind):
    """As the kind ``conv_classifier``, with another network."""

    def network(self, settings: ResidualClassifierConfig, info: ImageInfo) -> nn.Module:  # type: ignore[override]
        """See `deqzoo.models.residual_net`."""
        return construct(residual_net, settings, info)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Symmetry."""
        return symmetry_facts(model)


CONV = ConvClassifierKind()
RESIDUAL = ResidualClassifierKind()
