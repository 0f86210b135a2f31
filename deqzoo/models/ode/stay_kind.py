"""Kinds of models of stays in intensive care: a latent ODE that tells who dies or what is measured, and a GRU-D."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import StayInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.kind import ODES, Kind, Trained
from deqzoo.models.common.options import construct, described, ode_adjoint, ode_for_use, ode_solver
from deqzoo.models.ode.config import GRUDStaysConfig, LatentODEStaysConfig
from deqzoo.models.ode.latent_ode_kind import DYNAMICS, ENCODERS
from deqzoo.models.ode.series_classifier_network import GRUDClassifier
from deqzoo.models.ode.stay_check import INTERPOLATION_CHECK, MORTALITY_CHECK
from deqzoo.models.ode.stay_network import LatentODEClassifier

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

DRAWS = 100  # paths from the posterior, in a figure
DRAWN = ("HR", "NISysABP", "Temp", "GCS")  # channels of it


class StayKind(Kind):
    """Times, values and a mask in, logits out."""

    family = ODES
    info = StayInfo
    metric = "auc"
    takes = "days (T,), values and mask (B, T, 41) -> logits (B, 2)"
    check = MORTALITY_CHECK

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """What the channels are."""
        from deqzoo.data.physionet2012 import CHANNELS

        return {"channels, in this order and the data's units": ", ".join(CHANNELS)}

    def example(self, info: StayInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four stays."""
        if batch is not None:
            from deqzoo.data.stays import StayBatch

            data = StayBatch(*(part[:4].cpu() for part in batch))
            return {"times": data.times[0], "values": data.values, "observed": data.observed}
        random = torch.Generator().manual_seed(0)
        values = torch.tensor(info.mean) + torch.tensor(info.std) * torch.randn(4, 49, info.channels, generator=random)
        return {"times": torch.arange(49) / 24, "values": values, "observed": torch.rand(values.shape) < 0.2}

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training."""
        from deqzoo.plots import STAY_PANELS, plot_training

        plot_training(trained.history, folder / "training.png", STAY_PANELS)


class LatentODEStaysKind(StayKind):
    """By a latent ODE."""

    shown = ("auc", "interpolation_mse")
    learns_classes = True

    def network(self, settings: LatentODEStaysConfig, info: StayInfo) -> nn.Module:
        """See `deqzoo.models.LatentODEClassifier`; without a head where classes are not learned."""
        for name, valid in (("encoder", ENCODERS), ("dynamics", DYNAMICS)):
            if (value := getattr(settings, name)) not in valid:
                raise ConfigError(f"model.{name}={value}: valid are {', '.join(valid)}.")
        if bool(settings.classification_weight) != self.learns_classes:
            needed = "positive; kind latent_ode_interpolation" if self.learns_classes else "0; kind latent_ode_stays"
            raise ConfigError(f"model.classification_weight must be {needed} is for the other case.")
        given = {"solver": ode_solver(settings), "adjoint": ode_adjoint(settings)}
        if not self.learns_classes:
            given["classes"] = ()  # no head, so that none is there untrained
        return construct(LatentODEClassifier, settings, info, **given)

    def module(self, network: nn.Module, settings: LatentODEStaysConfig) -> "SolverModule":
        """The evidence lower bound and the cross-entropy."""
        from deqzoo.models.ode.stay_module import LatentStayModule

        return LatentStayModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.ode_for_use`."""
        ode_for_use(settings, solver, tol, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Encoder and dynamics, how those are solved, and what the errors are of."""
        facts = {"encoder": model["encoder"].replace("_", "-").upper(), "dynamics": model["dynamics"].upper()}
        if model["dynamics"] == "ode":
            facts["forward solver"] = described(model["solver"], model["solver_options"])
            facts["adjoint"] = described(model["adjoint"], model["adjoint_options"])
        errors = "of single measurements, at their times rounded to the grid, scaled by the training stays' range"
        return {**super().facts(model), **facts, "errors": errors}

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """Test stays besides: what was measured, and paths from the posterior."""
        from deqzoo.data.physionet2012 import CHANNELS
        from deqzoo.data.stays import StayBatch
        from deqzoo.plots import plot_stays

        super().plots(trained, folder)
        data = StayBatch(*next(iter(trained.test_batches())))
        channels = [CHANNELS.index(name) for name in DRAWN]
        rich = data.counts[..., channels].clamp(max=1).sum((1, 2)).argsort(descending=True)[[0, len(data.counts) // 2]]
        chosen = StayBatch(*(part[rich] for part in data))
        network: Any = trained.network
        random = torch.Generator().manual_seed(0)
        paths = network.sample(chosen.times[0], chosen.values, chosen.observed, draws=DRAWS, generator=random)
        seen = chosen.values.where(chosen.observed, torch.nan)
        hours = 24 * chosen.times[0].cpu()
        plot_stays(hours, seen[..., channels].cpu(), paths[..., channels].cpu(), DRAWN, folder / "stays.png")


class InterpolationKind(LatentODEStaysKind):
    """By what it gives back of the measurements."""

    metric = "interpolation_mse"
    takes = "days (T,), values and mask (B, T, 41) -> prediction"
    shown = ("interpolation_mse", "measurement_mse")
    check = INTERPOLATION_CHECK
    learns_classes = False


class GRUDStaysKind(StayKind):
    """By a GRU-D."""

    def network(self, settings: GRUDStaysConfig, info: StayInfo) -> nn.Module:
        """See `deqzoo.models.GRUDClassifier`."""
        return construct(GRUDClassifier, settings, info)

    def module(self, network: nn.Module, settings: GRUDStaysConfig) -> "SolverModule":
        """Cross-entropy."""
        from deqzoo.models.ode.stay_module import StayModule

        return StayModule.of(network, settings)


MORTALITY, INTERPOLATION, GRUD = LatentODEStaysKind(), InterpolationKind(), GRUDStaysKind()
