"""Training of the decays of a `deqzoo.models.DecayLearner`."""

from typing import Any

from torch import Tensor

from deqzoo.models.meta.fitted_module import FittedModule


class LearnedDecayModule(FittedModule):
    """Each step fits the classifier with the decays and lowers its loss on the validation set, in their logarithms.

    Logged besides what `FittedModule` logs: ``spread``, the standard deviation of the decays' natural logarithms.
    """

    def hyperparameter_metrics(self, network: Any) -> dict[str, Tensor]:
        """How far the decays have parted."""
        return {"spread": network.log_decays.detach().std()}
