"""The kind ``contractive_classifier``: image classifiers of well-posed equilibria, and their explicit baselines."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.kind import Trained
from deqzoo.models.common.options import construct, fixed_point_adjoint, fixed_point_solver
from deqzoo.models.equilibrium.contractive_network import contractive_net
from deqzoo.models.equilibrium.kind import EquilibriumKind

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


class ContractiveClassifierKind(EquilibriumKind):
    """Images in, logits out; each stage is a fixed point that exists, is unique, and is found by plain iteration."""

    try_next = "model.solver=anderson"
    compared = ("picard", "anderson", "broyden")

    def network(self, settings: Any, info: ImageInfo) -> nn.Module:
        """See `deqzoo.models.contractive_net`."""
        if info.size is None:
            raise ConfigError("model.kind=contractive_classifier needs the size of the images; the data do not say it.")
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(contractive_net, settings, info, solver=solver, adjoint=adjoint)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """As of the kind ``deq_classifier``; an explicit body has no gains, whatever group the recipe has for them."""
        if settings.body == "explicit":
            names = [name for name, _ in network.named_parameters()]
            groups = [group for group in settings.parameter_groups if fnmatch.filter(names, group.match)]
            settings = dataclasses.replace(settings, parameter_groups=groups)
        return super().module(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Solver, gradient and the bound."""
        if model["body"] == "explicit":
            return {}
        bound = {"Lipschitz constant of each cell": f"below {model['rho_max']:g}"}
        return bound | (super().facts(model) if model["body"] == "equilibrium" else {"solver": "none: applied once"})

    def plots(self, trained: Trained, folder: Path) -> None:
        """As of the kind ``deq_classifier``; of explicit networks, the course of the training."""
        if trained.settings.body == "equilibrium":
            super().plots(trained, folder)
        else:
            from deqzoo.plots import PANELS, plot_training

            plot_training(trained.history, folder / "training.png", {"accuracy": PANELS["accuracy"]})


KIND = ContractiveClassifierKind()
