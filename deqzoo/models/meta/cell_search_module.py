"""Training of the scores of a `deqzoo.models.CellSearch`."""

from typing import Any, ClassVar

from torch import Tensor

from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch
from deqzoo.models.meta.cell_search_network import DERIVED_FROM, temperature
from deqzoo.models.meta.config import CellSearchTraining
from deqzoo.models.meta.fitted_module import FittedModule


class CellSearchModule(FittedModule):
    """Each step fits the classifier to the mixed cell and lowers its loss on the validation set, in the scores.

    In the second half of the search, a cell is derived after each step; validation and test are of the best one. Logged
    besides what `FittedModule` logs: ``decided``, the mean over places of the largest weight in a mixture.
    """

    Options: ClassVar[type[TrainingConfig]] = CellSearchTraining

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Lower the temperature."""
        last = max(int(self.trainer.estimated_stepping_batches) - 1, 1)
        network: Any = self.network
        network.temperature = temperature(self.global_step / last, self.options.last_temperature)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Derive a cell in the second half of the search."""
        if self.global_step >= DERIVED_FROM * int(self.trainer.estimated_stepping_batches):
            network: Any = self.network
            network.derive(*batch)

    def hyperparameter_metrics(self, network: Any) -> dict[str, Tensor]:
        """How near the mixtures are to single operations."""
        largest = [mixture.detach().max(1).values.mean() for mixture in network.mixtures()]
        return {"decided": sum(largest[1:], largest[0]) / len(largest)}
