"""Training of laws of motion: the states of a window, from its first one, through the solver."""

from typing import Any, ClassVar

import torch
from torch import nn
from torchmetrics import MaxMetric

from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.physics.config import OrbitTraining
from deqzoo.models.physics.energy import follow


class OrbitModule(SolverModule):
    """Fits orbits to windows of states: the mean squared error of all states after the first.

    The test follows the true energy from each start, see `deqzoo.models.physics.energy.follow`: ``energy_error`` is the
    largest error over all starts and ``periods``, ``energy_error_1`` that over the first period.

    Args:
        network: see `deqzoo.models.physics.orbit_network`.
        options: those of `deqzoo.models.physics.config.OrbitTraining`.

    Attributes:
        info: the `deqzoo.data.info.OrbitInfo` of the data.
    """

    Options: ClassVar[type[TrainingConfig]] = OrbitTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.info: Any = None
        self.errors = nn.ModuleDict({name: MaxMetric() for name in ("energy_error", "energy_error_1")})

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The error of the windows; in the test also that of the energy."""
        (states,) = batch
        times = self.info.spacing * torch.arange(states.shape[1])  # on the host, where steps are chosen
        loss = (network(states[:, 0], times) - states)[:, 1:].square().mean()
        metrics: dict[str, Any] = {}
        if stage == "test":
            errors, _ = follow(network, self.info, states[:, 0], self.options.periods)
            for name, of_name in (("energy_error", errors), ("energy_error_1", errors[0])):
                error: Any = self.errors[name]
                error.update(of_name)
                metrics[name] = error
        return Step(loss, metrics, states, len(states))
