"""The kind ``mdeq_classifier``: image classifiers of one multiscale equilibrium."""

from torch import nn

from deqzoo.data.info import ImageInfo
from deqzoo.models.common.options import arguments_of, construct, fixed_point_adjoint, fixed_point_solver
from deqzoo.models.equilibrium.config import MDEQClassifierConfig
from deqzoo.models.equilibrium.kind import EquilibriumKind
from deqzoo.models.equilibrium.mdeq_network import MDEQClassifier
from deqzoo.nn.mdeq import MDEQCell


class MEquilibriumKind(EquilibriumKind):
    """As the kind ``deq_classifier``, with another network."""

    try_next = "model.solver=anderson"

    def network(self, settings: MDEQClassifierConfig, info: ImageInfo) -> nn.Module:  # type: ignore[override]
        """See `deqzoo.models.MDEQClassifier`."""
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        cell = arguments_of(MDEQCell, settings)
        return construct(MDEQClassifier, settings, info, **cell, solver=solver, adjoint=adjoint)


KIND = MEquilibriumKind()
