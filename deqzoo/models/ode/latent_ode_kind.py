"""The kind ``latent_ode``: generative models of irregular series, and the recurrent baseline they are compared with."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import SeriesInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.kind import ODES, Check, Kind, Trained
from deqzoo.models.common.options import construct, described, ode_adjoint, ode_for_use, ode_solver
from deqzoo.models.ode.config import LatentODEConfig
from deqzoo.models.ode.latent_ode_network import LatentODE

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


ENCODERS, DYNAMICS = ("gru", "ode_rnn"), ("gru", "ode")
DRAWS, DRAWN, FRAMES = 100, 4, 16  # paths from the posterior, series in a figure, frames of a GIF

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]


class LatentODEKind(Kind):
    """Times, values and a mask in, predictions out."""

    family = ODES
    info = SeriesInfo
    metric = "rmse"
    shown = ("rmse_beyond", "rmse")  # the papers' predictive errors first
    takes = "times (T,), values and mask (B, T, C) -> prediction (B, T, C)"

    def network(self, settings: LatentODEConfig, info: SeriesInfo) -> nn.Module:
        """See `deqzoo.models.LatentODE`."""
        for name, valid in (("encoder", ENCODERS), ("dynamics", DYNAMICS)):
            if (value := getattr(settings, name)) not in valid:
                raise ConfigError(f"model.{name}={value}: valid are {', '.join(valid)}.")
        return construct(LatentODE, settings, info, solver=ode_solver(settings), adjoint=ode_adjoint(settings))

    def module(self, network: nn.Module, settings: LatentODEConfig) -> "SolverModule":
        """The evidence lower bound."""
        from deqzoo.models.ode.latent_ode_module import LatentODEModule

        return LatentODEModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.ode_for_use`."""
        ode_for_use(settings, solver, tol, max_steps)

    def example(self, info: SeriesInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four series, of which the window is shown."""
        if batch is not None:
            from deqzoo.data.series import SeriesBatch
            from deqzoo.models.ode.latent_ode_module import observed_part

            data = SeriesBatch(*(part[:4].cpu() for part in batch))
            return {"times": data.times[0], "values": data.values, "observed": observed_part(data, 1.0)}
        random = torch.Generator().manual_seed(0)
        values = torch.randn(4, 20, info.channels, generator=random)
        observed = torch.rand(values.shape, generator=random) < 0.5
        return {"times": torch.linspace(0, info.window, 20), "values": values, "observed": observed}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Encoder and dynamics, and how those are solved."""
        facts = {"encoder": model["encoder"].replace("_", "-").upper(), "dynamics": model["dynamics"].upper()}
        if model["dynamics"] == "ode":
            facts["forward solver"] = described(model["solver"], model["solver_options"])
            facts["adjoint"] = described(model["adjoint"], model["adjoint_options"])
        if model["relative_errors"]:
            facts["errors"] = "in units of each channel's standard deviation"
        return facts

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training, and test series with their bands, over time and in the plane."""
        from deqzoo.data.series import SeriesBatch
        from deqzoo.models.ode.latent_ode_module import observed_part
        from deqzoo.plots import SERIES_PANELS, animate_series, plot_plane, plot_series, plot_training

        plot_training(trained.history, folder / "training.png", SERIES_PANELS)
        data = SeriesBatch(*(part[:DRAWN] for part in next(trained.test_batches())))
        network: Any = trained.network
        random = torch.Generator().manual_seed(0)

        def paths(fraction: float) -> tuple[Tensor, Tensor]:
            observed = observed_part(data, fraction)
            drawn = network.sample(data.times[0], data.values, observed, draws=DRAWS, generator=random)
            return data.values.where(observed, torch.nan).cpu(), drawn.cpu()

        truth = data.truth.where(data.asked | data.measured, torch.nan).cpu()
        times, window = data.times[0].cpu(), trained.data.info.window
        least = min(trained.settings.observed_fractions)
        plot_series(times, *paths(least), truth, window, folder / "series.png")
        if truth.shape[2] == 2:
            plot_plane(*paths(least), truth, folder / "plane.png")
        frames = [paths(fraction) for fraction in torch.linspace(0.05, 1, FRAMES).tolist()]
        animate_series(times, frames, truth, window, folder / "series.gif")

    check = Check(
        name="comparison",
        title="How does it compare?",
        measure=lambda trained: compare(trained),
        rows=lambda check: [
            (f"{name} ({found['note']})", f"RMSE {found['rmse']:.4f} inside, {found['rmse_beyond']:.4f} beyond", "")
            for name, found in check.items()
        ],
    )


def compare(trained: Trained) -> dict[str, Any]:
    """Errors, with all of the window shown, of the network, its shipped baseline, and linear interpolation."""
    from deqzoo.data.series import SeriesBatch

    network, settings = trained.network, trained.settings
    std: Any = network.std
    scale = std if settings.relative_errors else torch.ones_like(std)
    batches = [SeriesBatch(*batch) for batch in trained.test_batches()]
    # Weights that were not trained in this run have no history.
    steps = [f"{max(row['step'] for row in trained.history) + 1:,.0f} steps"] if trained.history else []
    found = {"this entry": _errors(network, batches, scale, ", ".join([_size(network), *steps]))}
    if baseline := trained.find_baseline(settings.baseline):
        other = baseline.load(trained.device)
        note = f"{_size(other)}, {baseline.metrics['steps']:,} steps"
        found[f"`{baseline.entry}`"] = _errors(other, batches, scale, note)
    mean: Any = network.mean
    found["linear interpolation"] = _errors(
        lambda times, values, shown: interpolate(times, values, shown, mean),
        batches,
        scale,
        "a channel by itself; beyond: its last value",
    )
    return found


def interpolate(times: Tensor, values: Tensor, observed: Tensor, mean: Tensor) -> Tensor:
    """Each channel between its neighbouring observations, by a straight line; outside them, the nearest one.

    Args:
        times: (T,).
        values, observed: (B, T, C).
        mean: (C,), for a channel without any observation.

    >>> values, observed = torch.tensor([[[0.0], [9.0], [4.0], [9.0]]]), torch.tensor([[[1], [0], [1], [0]]]).bool()
    >>> interpolate(torch.arange(4.0), values, observed, torch.zeros(1)).flatten()
    tensor([0., 2., 4., 4.])
    """
    last = len(times) - 1
    place = torch.arange(last + 1, device=times.device)[:, None].expand(values.shape)
    before = torch.where(observed, place, -1).cummax(1).values
    after = torch.where(observed, place, last + 1).flip(1).cummin(1).values.flip(1)
    left = torch.where(before < 0, after, before).clamp(0, last)
    right = torch.where(after > last, before, after).clamp(0, last)
    span = times[right] - times[left]
    weight = torch.where(span > 0, (times[place] - times[left]) / span.clamp(min=1e-12), 0.0)
    line = torch.lerp(values.gather(1, left), values.gather(1, right), weight)
    return torch.where((before < 0) & (after > last), mean, line)


@torch.no_grad()
def _errors(predict: Predictor | nn.Module, batches: Iterable[Any], scale: Tensor, note: str) -> dict[str, float | str]:
    from deqzoo.models.ode.latent_ode_module import asked_parts, error_names, observed_part

    squares, counts = [0.0, 0.0], [0, 0]
    for data in batches:
        error = (predict(data.times[0], data.values, observed_part(data, 1.0)) - data.truth) / scale
        for index, part in enumerate(asked_parts(data)):
            squares[index] += error[part].double().square().sum().item()
            counts[index] += int(part.sum())
    roots = [(square / count) ** 0.5 for square, count in zip(squares, counts, strict=True)]
    return {**{name: float(f"{value:.6g}") for name, value in zip(error_names(1.0), roots, strict=True)}, "note": note}


def _size(network: nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()):,} parameters"


KIND = LatentODEKind()
