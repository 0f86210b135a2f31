"""The kind ``cell_search``: the operations of a cell, chosen by implicit gradients of a validation loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from deqzoo.data.info import FewImageInfo
from deqzoo.models.common.kind import Check, Trained
from deqzoo.models.common.options import construct
from deqzoo.models.meta.cell_search_check import Rivals, check_rows, check_text, measure_search
from deqzoo.models.meta.cell_search_network import PLACES, CellSearch
from deqzoo.models.meta.config import CellSearchConfig
from deqzoo.models.meta.fitted_kind import FittedKind

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


class CellSearchKind(FittedKind):
    """Images in, logits out."""

    info = FewImageInfo

    def network(self, settings: CellSearchConfig, info: FewImageInfo) -> nn.Module:
        """See `deqzoo.models.CellSearch`."""
        return construct(
            CellSearch,
            settings,
            shape=info.shape,
            classes=len(info.classes),
            **self.inner_solvers(settings),
        )

    def module(self, network: nn.Module, settings: CellSearchConfig) -> "SolverModule":
        """Cross-entropy of the validation set."""
        from deqzoo.models.meta.cell_search_module import CellSearchModule

        return CellSearchModule.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The cell and the two solvers."""
        facts = {"channels of the cell": str(model["channels"]), **super().facts(model)}
        return facts | ({"gradient by": "the first order alone"} if model["first_order"] else {})

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
