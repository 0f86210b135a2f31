"""Training of latent ODEs: the evidence lower bound, and the errors of predictions inside and beyond the window."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from deqzoo.data.series import SeriesBatch
from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.ode.config import LatentODETraining

LATEST_START = 0.8  # the part of a window that is left tells enough of the state there


class LatentODEModule(SolverModule):
    """Trains a `deqzoo.models.LatentODE` on batches of `deqzoo.data.series.SeriesBatch`.

    The loss is minus the bound, in nats per measured value; ``kl`` is the divergence of a series, in nats. In training
    the encoder sees a random part of the window's times, and the bound is that of all that was measured; with
    ``consistency_weight`` the path shall also agree with what is seen from a random time on. Validation and
    test log ``rmse`` and ``rmse_beyond``: of the predictions from the posterior's mean, where the data ask for them,
    inside and beyond the window. With a fraction of the times observed that is not 1, its per cent are appended:
    ``rmse_30``.

    Its options are those of `deqzoo.models.ode.config.LatentODETraining`.
    """

    Options: ClassVar[type[TrainingConfig]] = LatentODETraining

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        names = [name for fraction in self.options.observed_fractions for name in error_names(fraction)]
        stages = {f"{stage}_{name}": MeanSquaredError(squared=False) for stage in ("val", "test") for name in names}
        self.errors = nn.ModuleDict(stages)

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The bound of a batch; in validation and test with a fixed draw, and with the errors."""
        data = SeriesBatch(*batch)
        if stage == "train":
            return self._train(network, data)
        random = torch.Generator().manual_seed(0)
        observed = observed_part(data, 1.0)
        args = (data.times[0], data.values, observed, data.measured)
        bound, divergence, _ = network.elbo(*args, generator=random)  # type: ignore[operator]
        metrics: dict[str, Any] = {"kl": divergence.mean()}
        for fraction in self.options.observed_fractions:
            prediction = network(data.times[0], data.values, observed_part(data, fraction))
            metrics |= self._errors(network, data, prediction, fraction, stage)
        return Step(-bound.sum() / data.measured.sum(), metrics, data.values, len(data.values))

    def _train(self, network: nn.Module, data: SeriesBatch) -> Step:
        length = data.last_measured() + 1  # nothing was measured later
        times, values, measured = data.times[0, :length], data.values[:, :length], data.measured[:, :length]

        def random_part() -> Tensor:
            return measured & self._random_part(data.rank[:, :length] < 1, measured.shape[2])

        bound, divergence, path = network.elbo(  # type: ignore[operator]
            times, values, random_part(), measured, kl_weight=self._kl_weight()
        )
        loss, metrics = -bound.sum(), {"kl": divergence.detach().mean()}
        if self.options.consistency_weight:
            start = int(torch.randint(1, max(2, round(LATEST_START * length)), ()))
            found = network.inconsistency(path, times, values, random_part(), start)  # type: ignore[operator]
            loss = loss + self.options.consistency_weight * found.sum()
            metrics["inconsistency"] = found.detach().mean()
        return Step(loss / measured.sum(), metrics, values, len(values))

    def _random_part(self, inside: Tensor, channels: int) -> Tensor:
        """What of the window, (B, T) bool, the encoder sees in a training step, (B, T, channels) bool."""
        least = self.options.min_observed_fraction
        fraction = least + (1 - least) * torch.rand(len(inside), 1, device=inside.device)
        if self.options.hidden_by == "values":
            return inside[..., None] & (torch.rand(*inside.shape, channels, device=inside.device) < fraction[..., None])
        random = torch.rand(inside.shape, device=inside.device).masked_fill(~inside, 1.0)
        observed = inside & (random.argsort(1).argsort(1) < fraction * inside.sum(1, keepdim=True))
        return observed[..., None].expand(-1, -1, channels)

    def _kl_weight(self) -> float:
        rise = self.options.kl_annealing * float(self.trainer.estimated_stepping_batches)
        return self.options.kl_weight * (min(1.0, self.global_step / rise) if rise else 1.0)

    def _errors(
        self, network: nn.Module, data: SeriesBatch, prediction: Tensor, fraction: float, stage: str
    ) -> dict[str, Any]:
        std: Any = network.std
        scale = std if self.options.relative_errors else torch.ones_like(std)
        found = {}
        for name, asked in zip(error_names(fraction), asked_parts(data), strict=True):
            error: Any = self.errors[f"{stage}_{name}"]
            error.update((prediction / scale)[asked], (data.truth / scale)[asked])
            found[name] = error
        return found


def observed_part(data: SeriesBatch, fraction: float) -> Tensor:
    """Where the encoder sees what was measured, (B, T, C) bool: at the first ``fraction`` of the window's times."""
    return data.measured & (data.rank < fraction)[..., None]


def asked_parts(data: SeriesBatch) -> tuple[Tensor, Tensor]:
    """Where predictions are scored, (B, T, C) bool: inside and beyond the window."""
    inside = (data.rank < 1)[..., None]
    return data.asked & inside, data.asked & ~inside


def error_names(fraction: float) -> tuple[str, str]:
    """Names of the two errors for a fraction of the times observed.

    >>> error_names(1.0), error_names(0.3)
    (('rmse', 'rmse_beyond'), ('rmse_30', 'rmse_beyond_30'))
    """
    suffix = "" if fraction == 1 else f"_{round(100 * fraction)}"
    return f"rmse{suffix}", f"rmse_beyond{suffix}"
