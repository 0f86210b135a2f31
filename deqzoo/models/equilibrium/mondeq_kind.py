"""The kind ``mondeq_classifier``: image classifiers with a monotone operator equilibrium network."""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from torch import nn

from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.options import construct, fixed_point_adjoint, monotone_solver
from deqzoo.models.equilibrium.kind import EquilibriumKind
from deqzoo.models.equilibrium.mondeq_network import mondeq_conv, mondeq_fc

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


class MonEquilibriumKind(EquilibriumKind):
    """Images in, logits out; the body is one monotone equilibrium."""

    try_next = "model.solver=anderson"
    compared = ("peaceman_rachford", "forward_backward", "anderson", "picard")

    def network(self, settings: Any, info: ImageInfo) -> nn.Module:
        """See `deqzoo.models.mondeq_conv`, `deqzoo.models.mondeq_fc`."""
        widths: list[int] = list(settings.widths)
        if settings.body not in ("conv", "fc"):
            raise ConfigError(f"model.body={settings.body}: valid are conv, fc.")
        if not widths or (settings.body == "fc" and len(widths) > 1):
            raise ConfigError(f"model.widths={widths}: conv takes one width per tier, fc takes one.")
        solving: Any = {"solver": monotone_solver(settings), "adjoint": fixed_point_adjoint(settings)}
        if settings.body == "conv":
            return construct(mondeq_conv, settings, info, **solving)
        if info.size is None:
            raise ConfigError("model.body=fc needs the size of the images; the data do not state it.")
        pixels = info.in_channels * prod(info.size)
        return construct(mondeq_fc, settings, info, in_features=pixels, features=widths[0], **solving)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy."""
        from deqzoo.models.equilibrium.module import MonDEQClassifierModule

        return MonDEQClassifierModule.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Solver, gradient and margin."""
        return super().facts(model) | {"margin of monotonicity": f"{model['margin']:g}"}


KIND = MonEquilibriumKind()
