"""Training of pendulums whose parameters are to be found: through the solver, or by the residual of the ODE."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from deqzoo.data.series import SeriesBatch
from deqzoo.implicit.sending import send
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.physics.config import PendulumTraining, PINNTraining


class PendulumModule(SolverModule):
    """Fits a `deqzoo.models.PendulumODE` to angles: the mean squared error at the first times, then at more and more.

    (From all of 10 s at once, a wrong number of swings is a local minimum.) Logged are the parameters, and in the test
    ``parameter_error``, the largest relative error, and ``rmse``, ``rmse_beyond`` of the angles, in rad, against the
    truth: inside the window of the measurements, and beyond, from the fitted initial states.

    Args:
        network: see `deqzoo.models.physics.pendulum_network`.
        options: those of `deqzoo.models.physics.config.PendulumTraining`.

    Attributes:
        truth: the parameters that made the data, gravity / length and damping; None: not known, so that no error of
            them is logged.
    """

    Options: ClassVar[type[TrainingConfig]] = PendulumTraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self.truth: tuple[float, ...] | None = None
        self.errors = nn.ModuleDict({name: MeanSquaredError(squared=False) for name in ("rmse", "rmse_beyond")})

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The error of the fit; in the test, of the solved path against the truth."""
        data = SeriesBatch(*batch)
        metrics = self._found(network)
        if stage == "train":
            return Step(self.fit_loss(network, data), metrics, data.values, len(data.values))
        path = network.states(data.times[0])[data.series, :, :1]  # type: ignore[operator]
        asked, inside = data.asked, (data.rank < 1)[..., None]
        for name, part in (("rmse", asked & inside), ("rmse_beyond", asked & ~inside)):
            error: Any = self.errors[name]
            error.update(path[part], data.truth[part])
            metrics[name] = error
        loss = (path - data.values)[data.measured].square().mean()
        return Step(loss, metrics, data.values, len(data.values))

    def fit_loss(self, network: nn.Module, data: SeriesBatch) -> Tensor:
        """The mean squared error at the times that count by now."""
        last = data.last_measured() + 1
        last = max(2, round(last * (0.1 + 0.9 * self.grown())))
        angles = network(data.times[0, :last])[data.series, :, None]
        return (angles - data.values[:, :last])[data.measured[:, :last]].square().mean()

    def grown(self) -> float:
        """How far the training has come in the part of it that `growth` names, from 0 to 1."""
        steps = self.options.growth * float(self.trainer.estimated_stepping_batches)
        return min(1.0, self.global_step / steps) if steps else 1.0

    def _found(self, network: nn.Module) -> dict[str, Any]:
        found = network.physics.log_parameters.detach().exp()  # type: ignore[union-attr, operator]
        named = dict(zip(("gravity_over_length", "damping"), found, strict=True))
        if self.truth is not None:
            truth = send(torch.tensor(self.truth), found.device)
            named["parameter_error"] = (found / truth - 1).abs().max()
        return named


class PINNModule(PendulumModule):
    """Trains a `deqzoo.models.PendulumPINN`: the error of u on the data, and the mean squared residual at random times.

    Its options are those of `deqzoo.models.physics.config.PINNTraining`.
    """

    Options: ClassVar[type[TrainingConfig]] = PINNTraining

    def fit_loss(self, network: nn.Module, data: SeriesBatch) -> Tensor:
        """Both parts; the residual's weight rises at first, so that u finds the data before it obeys."""
        last = data.last_measured() + 1
        times = data.times[0, :last]
        angles = network(times)[data.series, :, None]
        error = (angles - data.values[:, :last])[data.measured[:, :last]].square().mean()
        somewhere = times[-1] * torch.rand(self.options.collocation, device=times.device)
        residual = network.residual(somewhere).square().mean()  # type: ignore[operator]
        self.log("train/residual_loss", residual.detach())
        return error + self.options.residual_weight * self.grown() * residual
