"""Training of the examples' weights of a `deqzoo.models.DataCleaner`."""

from typing import Any

from torch import Tensor

from deqzoo.models.meta.fitted_module import FittedModule


class DataCleaningModule(FittedModule):
    """Each step fits the classifier to the weighted examples and lowers its loss on the clean set, in their weights.

    Logged besides what `FittedModule` logs: ``trust``, the mean weight of an example.
    """

    def hyperparameter_metrics(self, network: Any) -> dict[str, Tensor]:
        """The mean weight."""
        return {"trust": network.trust.detach().mean()}
