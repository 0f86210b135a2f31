"""What the kinds share whose hyperparameters are learned through the fit of a classifier, by implicit gradients."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from deqzoo.implicit import LINEAR_SOLVERS, MINIMIZERS, make_solver
from deqzoo.models.common.kind import META, Kind
from deqzoo.models.common.options import by_name, described

SHOWN = 4  # images of a golden input


class FittedKind(Kind):
    """Images in, logits out; a subclass has the network, whose inner problem has a minimiser and a linear solver.

    Attributes:
        argument: name of the images in the network's ``forward``.
    """

    family = META
    metric = "accuracy"
    takes = "raw images in [0, 1] -> logits"
    argument: ClassVar[str] = "images"

    def example(self, info: Any, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images."""
        if batch is not None:
            return {self.argument: batch[0][:SHOWN].cpu()}
        return {self.argument: torch.rand(SHOWN, *info.shape, generator=torch.Generator().manual_seed(0))}

    def inner_solvers(self, settings: Any) -> dict[str, Any]:
        """``solver`` and ``linear_solver``, made of a recipe's settings of these names."""
        linear, options = settings.linear_solver, settings.linear_solver_options
        return {
            "solver": by_name("model.solver", MINIMIZERS, make_solver, settings.solver, settings.solver_options),
            "linear_solver": by_name("model.linear_solver", LINEAR_SOLVERS, make_solver, linear, options),
        }

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The two solvers."""
        return {
            "inner solver": described(model["solver"], model["solver_options"]),
            "gradient by": described(model["linear_solver"], model["linear_solver_options"]),
        }
