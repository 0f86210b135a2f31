"""The kind ``deq_classifier``: image classifiers of equilibria whose cells nothing bounds."""

from torch import nn

from deqzoo.data.info import ImageInfo
from deqzoo.models.common.options import construct, fixed_point_adjoint, fixed_point_solver
from deqzoo.models.equilibrium.config import DEQClassifierConfig
from deqzoo.models.equilibrium.kind import EquilibriumKind
from deqzoo.models.equilibrium.unbounded_network import DEQClassifier


class DEQClassifierKind(EquilibriumKind):
    """Each stage is a fixed point of a cell of `deqzoo.nn.CELLS`."""

    def network(self, settings: DEQClassifierConfig, info: ImageInfo) -> nn.Module:
        """See `deqzoo.models.DEQClassifier`."""
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(DEQClassifier, settings, info, solver=solver, adjoint=adjoint)


KIND = DEQClassifierKind()
