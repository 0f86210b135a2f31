"""Training of continuous flows: by maximum likelihood through the ODE, or by flow matching."""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn

from deqzoo.data.densities import Density
from deqzoo.models.config import TrainingConfig
from deqzoo.models.flow_config import FlowTraining
from deqzoo.models.module import Batch, SolverModule, Step
from deqzoo.nn import solver_layers, use_solver
from deqzoo.nn.flow_matching import flow_matching_loss


class FlowModule(SolverModule):
    """Trains a `deqzoo.nn.ContinuousFlow` on points.

    The loss is -log p(x), in nats, or in training with ``objective="flow_matching"`` that of
    `deqzoo.nn.flow_matching`. Validation and test log ``nll``, by the ODE, and, where the true density is known,
    ``kl_density``: the mean of log p_true(x) - log p(x).

    Its options are those of `deqzoo.models.flow_config.FlowTraining`.

    Attributes:
        truth: the density that the points are drawn from; None: not known.
    """

    Options: ClassVar[type[TrainingConfig]] = FlowTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.truth: Density | None = None

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The objective in training, else the negative log-likelihood."""
        (x,) = batch
        flow: Any = network
        if stage == "train":
            return Step(self._objective(flow, x), {}, x, len(x))
        log_prob = flow.log_prob(x)
        nll = -log_prob.mean()
        metrics = {"nll": nll}
        if self.truth is not None:
            metrics["kl_density"] = (self.truth.log_prob(x) - log_prob).mean()
        return Step(nll, metrics, x, len(x))

    def penalties(self) -> dict[str, tuple[float, Tensor]]:
        """Those of the paths of the last training step."""
        network: Any = self.network
        factors = {name: getattr(self.options, f"{name}_penalty") for name in network.flow.path}
        return {name: (factors[name], path.mean()) for name, path in network.flow.path.items()}

    def _objective(self, flow: Any, x: Tensor) -> Tensor:
        if self.options.objective == "flow_matching":
            for layer in solver_layers(flow):
                layer.solution = None  # of the validation: nothing is solved here
            return flow_matching_loss(flow.flow.dynamics, x, coupling=self.options.coupling).mean()
        with training_tolerance(flow, self.options.train_tol):
            return -flow.log_prob(x).mean()


def training_tolerance(network: nn.Module, tol: float | None) -> AbstractContextManager[None]:
    """Within it, an adaptive solver has this tolerance; None: its own."""
    layer = solver_layers(network)[0]
    if tol is None or not hasattr(layer.solver, "rtol"):
        return nullcontext()
    return use_solver(network, dataclasses.replace(layer.solver, rtol=tol, atol=tol))
