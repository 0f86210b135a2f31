"""The kind ``contractive_classifier``: image classifiers of well-posed equilibria, and their explicit twins."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from deqzoo.config import ConfigError
from deqzoo.data.info import ImageInfo
from deqzoo.models.deq_classifier import DEQClassifierKind
from deqzoo.models.options import fixed_point_gradient, fixed_point_solver, settings_errors
from deqzoo.nn import contractive_net


class ContractiveClassifierKind(DEQClassifierKind):
    """Images in, logits out; each stage is a fixed point that exists, is unique, and is found by plain iteration."""

    try_next = "model.solver=anderson"
    compared = ("picard", "anderson", "broyden")

    def network(self, settings: Any, info: ImageInfo) -> nn.Module:
        """See `deqzoo.nn.contractive_net`."""
        if info.size is None:
            raise ConfigError("model.kind=contractive_classifier needs the size of the images; the data do not say it.")
        with settings_errors():
            return contractive_net(
                info.size,
                info.classes,
                info.mean,
                info.std,
                widths=settings.widths,
                body=settings.body,
                rho_max=settings.rho_max,
                rho=settings.rho,
                solver=fixed_point_solver(settings),
                gradient=fixed_point_gradient(settings),
            )

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Solver, gradient and the bound."""
        return super().facts(model) | {"Lipschitz constant of each cell": f"below {model['rho_max']:g}"}


KIND = ContractiveClassifierKind()
