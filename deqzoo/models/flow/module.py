"""Training of continuous flows: by maximum likelihood through the ODE, or by flow matching."""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from deqzoo.data.densities import Density
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.flow.config import FlowTraining, ImageFlowTraining
from deqzoo.models.flow.flow_matching import flow_matching_loss
from deqzoo.models.flow.image_network import FlatFlow
from deqzoo.models.flow.pixels import Gaussianization, dequantize
from deqzoo.nn import FlowODE, solver_layers, use_solver

PASSES = 3  # over the training images, each with noise of its own, for their covariance


class DensityModule(SolverModule):
    """What flows of points and of images have in common: their objectives, and the penalties of their paths.

    Its options are those of `deqzoo.models.flow.config.FlowTraining`.
    """

    Options: ClassVar[type[TrainingConfig]] = FlowTraining

    def matching_loss(self, flow: FlowODE, x: Tensor) -> Tensor:
        """The mean loss of `deqzoo.models.flow.flow_matching` at x, where the ODE ends."""
        flow.ode.solution = None  # that of the validation: nothing is solved here
        options = self.options
        loss = flow_matching_loss(flow.dynamics, x, coupling=options.coupling, interpolant=options.interpolant)
        return loss.mean()

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """Those of the paths of the last training step."""
        network: Any = self.network
        return {name: (getattr(self.options, f"{name}_penalty"), path.mean()) for name, path in network.path.items()}


class FlowModule(DensityModule):
    """Trains a `deqzoo.nn.ContinuousFlow` on points.

    The loss is -log p(x), in nats, or in training with ``objective="flow_matching"`` that of
    `deqzoo.models.flow.flow_matching`. Validation and test log ``nll``, by the ODE, and, where the true density is
    known, ``kl_density``: the mean of log p_true(x) - log p(x).

    Its options are those of `deqzoo.models.flow.config.FlowTraining`.

    Attributes:
        truth: the density that the points are drawn from; None: not known.
    """

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

    def _objective(self, flow: Any, x: Tensor) -> Tensor:
        if self.options.objective == "flow_matching":
            return self.matching_loss(flow.flow, x)
        with training_tolerance(flow, self.options.train_tol):
            return -flow.log_prob(x).mean()


class ImageFlowModule(DensityModule):
    """Trains a `deqzoo.models.ImageFlow` on images.

    The loss is ``bits_per_dim`` of dequantised images, or in training with ``objective="flow_matching"`` that of
    `deqzoo.models.flow.flow_matching`. In validation and test the noise is the same in each run, and the ODE is solved
    in float32 whatever the trainer's precision: an adaptive solver would take the rounding of bfloat16 for its error.

    Its options are those of `deqzoo.models.flow.config.ImageFlowTraining`.
    """

    Options: ClassVar[type[TrainingConfig]] = ImageFlowTraining

    def on_fit_start(self) -> None:
        """Fit to the training images what is fitted in one step; weights to start from have it already."""
        network: Any = self.network
        gaussianized = isinstance(network.pixels, Gaussianization)
        whitened = self.options.whiten and isinstance(network.body, FlatFlow)
        if self.from_weights or not (gaussianized or whitened):
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        images = data.images[data.parts["train"]].to(self.device).float() / (network.levels - 1)
        if gaussianized:
            network.pixels.fit(images)
        if whitened:
            noisy = dequantize(images.repeat(PASSES, 1, 1, 1), network.levels, Generator().manual_seed(0))
            network.body.whiten(network.pixels(noisy)[0])

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Bits/dim of a batch of images, whose labels are not looked at."""
        flow: Any = network
        random = None if stage == "train" else Generator().manual_seed(0)
        x = dequantize(batch[0], flow.levels, random)
        if stage != "train":
            with torch.autocast(x.device.type, enabled=False):
                bits = flow.bits_per_dim(x).mean()
        elif self.options.objective == "flow_matching":
            with torch.no_grad():
                end = flow.body.before_ode(flow.pixels(x)[0])
            return Step(self.matching_loss(flow.body.flow, end), {}, x, len(x))
        else:
            with training_tolerance(flow, self.options.train_tol):
                bits = flow.bits_per_dim(x).mean()
        return Step(bits, {"bits_per_dim": bits.detach()}, x, len(x))


def training_tolerance(network: nn.Module, tol: float | None) -> AbstractContextManager[None]:
    """Within it, an adaptive solver has this tolerance; None: its own."""
    layer = solver_layers(network)[0]
    if tol is None or not hasattr(layer.solver, "rtol"):
        return nullcontext()
    return use_solver(network, dataclasses.replace(layer.solver, rtol=tol, atol=tol))
