"""The kind ``cell_search``: the operations of a cell, chosen by implicit gradients of a validation loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import FewImageInfo
from deqzoo.implicit import LINEAR_SOLVERS, MINIMIZERS, make_solver
from deqzoo.models.common.kind import META, Check, Kind, Trained
from deqzoo.models.common.options import by_name, construct, described
from deqzoo.models.meta.cell_search_check import Rivals, check_rows, check_text, measure_search
from deqzoo.models.meta.cell_search_network import PLACES, CellSearch
from deqzoo.models.meta.config import CellSearchConfig

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


class CellSearchKind(Kind):
    """Images in, logits out."""

    family = META
    info = FewImageInfo
    metric = "accuracy"
    takes = "raw images in [0, 1] -> logits"

    def network(self, settings: CellSearchConfig, info: FewImageInfo) -> nn.Module:
        """See `deqzoo.models.CellSearch`."""
        solver, linear = settings.solver, settings.linear_solver
        return construct(
            CellSearch,
            settings,
            shape=info.shape,
            classes=len(info.classes),
            solver=by_name("model.solver", MINIMIZERS, make_solver, solver, settings.solver_options),
            linear_solver=by_name(
                "model.linear_solver", LINEAR_SOLVERS, make_solver, linear, settings.linear_solver_options
            ),
        )

    def module(self, network: nn.Module, settings: CellSearchConfig) -> "SolverModule":
        """Cross-entropy of the validation set."""
        from deqzoo.models.meta.cell_search_module import CellSearchModule

        return CellSearchModule.of(network, settings)

    def example(self, info: FewImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images."""
        if batch is not None:
            return {"images": batch[0][:4].cpu()}
        return {"images": torch.rand(4, *info.shape, generator=torch.Generator().manual_seed(0))}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The cell and the two solvers."""
        gradient = described(model["linear_solver"], model["linear_solver_options"])
        return {
            "channels of the cell": str(model["channels"]),
            "inner solver": described(model["solver"], model["solver_options"]),
            "gradient by": "the first order alone" if model["first_order"] else gradient,
        }

    check = Check(
        name="search",
        title="Is the cell better than those that first-order DARTS and random search find?",
        measure=measure_search,
        rows=check_rows,
        text=check_text,
    )

    def plots(self, trained: Trained, folder: Path) -> None:
        """The cell beside random ones, and the course of the training."""
        from deqzoo.plots import SEARCH_PANELS, plot_cell, plot_training

        rivals, network = Rivals(trained), trained.network
        assert isinstance(network, CellSearch)
        chosen = {
            place: [operations[index] for index in choice.argmax(1).tolist()]
            for (place, operations), choice in zip(PLACES.items(), network.derived(), strict=True)
        }
        losses = {"random": [cell.validation_loss for cell in rivals.random_cells()]}
        plot_cell(chosen, losses, rivals.examine(network.derived()).validation_loss, folder / "cell.png")
        plot_training(trained.history, folder / "training.png", SEARCH_PANELS)


KIND = CellSearchKind()
