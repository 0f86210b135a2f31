"""The kind ``mdeq_classifier``: image classifiers of one multiscale equilibrium."""

from torch import nn

from deqzoo.data.info import ImageInfo
from deqzoo.models.common.options import fixed_point_gradient, fixed_point_solver, settings_errors
from deqzoo.models.equilibrium.config import MDEQClassifierConfig
from deqzoo.models.equilibrium.deq_classifier import DEQClassifierKind
from deqzoo.models.equilibrium.mdeq_network import MDEQClassifier


class MDEQClassifierKind(DEQClassifierKind):
    """As the kind ``deq_classifier``, with another network."""

    try_next = "model.solver=anderson"

    def network(self, settings: MDEQClassifierConfig, info: ImageInfo) -> nn.Module:  # type: ignore[override]
        """See `deqzoo.models.MDEQClassifier`."""
        with settings_errors():
            return MDEQClassifier(
                in_channels=info.in_channels,
                classes=info.classes,
                mean=info.mean,
                std=info.std,
                widths=settings.widths,
                blocks=settings.blocks,
                expansion=settings.expansion,
                groups=settings.groups,
                dropout=settings.dropout,
                weight_norm=settings.weight_norm,
                head_widths=settings.head_widths,
                final_width=settings.final_width,
                solver=fixed_point_solver(settings),
                gradient=fixed_point_gradient(settings),
            )


KIND = MDEQClassifierKind()
