"""The kind ``residual_classifier``: explicit residual networks, with which equilibria are compared."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from deqzoo.data.info import ImageInfo
from deqzoo.models.config import ResidualClassifierConfig
from deqzoo.models.conv_classifier import ConvClassifierKind
from deqzoo.models.deq_classifier import symmetry_facts
from deqzoo.models.options import settings_errors
from deqzoo.nn import residual_net


class ResidualClassifierKind(ConvClassifierKind):
    """As the kind ``conv_classifier``, with another network."""

    def network(self, settings: ResidualClassifierConfig, info: ImageInfo) -> nn.Module:  # type: ignore[override]
        """See `deqzoo.nn.residual_net`."""
        with settings_errors():
            return residual_net(
                info.classes,
                info.mean,
                info.std,
                widths=settings.widths,
                depth=settings.depth,
                stem=settings.stem,
                groups=settings.groups,
                dropout=settings.dropout,
                mirror=settings.mirror,
            )

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Symmetry."""
        return symmetry_facts(model)


KIND = ResidualClassifierKind()
