"""The kinds ``neural_cde`` and ``gru_d``: classifiers of irregular series with missing values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import LabelledSeriesInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.kind import ODES, Check, Kind, Trained
from deqzoo.models.common.options import construct, described, ode_adjoint, ode_for_use, ode_solver
from deqzoo.models.ode.config import GRUDConfig, NeuralCDEConfig
from deqzoo.models.ode.series_classifier_network import GRUDClassifier, NeuralCDEClassifier

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

CURVE = tuple(number / 20 for number in range(20))  # fractions dropped, of a figure


class SeriesClassifierKind(Kind):
    """Times, values and a mask in, logits out."""

    family = ODES
    info = LabelledSeriesInfo
    metric = "accuracy"
    takes = "times (T,), values and mask (B, T, C) -> logits (B, classes)"

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy, with more or less dropped."""
        from deqzoo.models.ode.series_classifier_module import SeriesClassifierModule

        return SeriesClassifierModule.of(network, settings)

    def example(self, info: LabelledSeriesInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four series."""
        if batch is not None:
            from deqzoo.data.labelled_series import LabelledSeriesBatch

            data = LabelledSeriesBatch(*(part[:4].cpu() for part in batch))
            return {"times": data.times[0], "values": data.values, "observed": data.shown(0.5)}
        random = torch.Generator().manual_seed(0)
        values = torch.randn(4, 20, info.channels, generator=random)
        return {"times": torch.arange(20.0) / 10, "values": values, "observed": values > 0}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """What the accuracy is of."""
        fractions = ", ".join(f"{100 * fraction:.0f}" for fraction in model["dropped_fractions"])
        return {"accuracy": f"the mean of those with {fractions} % of the values dropped; one network for all"}

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training, and accuracy over what is dropped, also of the baseline."""
        from deqzoo.plots import PANELS, plot_over_dropping, plot_training

        plot_training(trained.history, folder / "training.png", {"accuracy": PANELS["accuracy"]})
        networks = {"this entry": trained.network}
        if baseline := trained.find_baseline(trained.settings.baseline):
            networks[baseline.entry] = baseline.load(trained.device)
        first = trained.data.info.dropped
        fractions = [fraction for fraction in CURVE if fraction >= first]
        curves = {
            name: dict(zip(fractions, accuracies(network, trained, fractions), strict=True))
            for name, network in networks.items()
        }
        plot_over_dropping(curves, folder / "accuracy_over_dropping.png")

    check = Check(
        name="comparison",
        title="How does it compare?",
        measure=lambda trained: compare(trained),
        rows=lambda check: [
            (
                f"{name} ({found['note']}), {check['n']:,} test series",
                ", ".join(f"{100 * found['accuracy'][part]:.2f} % at {part} % dropped" for part in found["accuracy"]),
                "",
            )
            for name, found in check.items()
            if name != "n"
        ],
        text=lambda check: verdict(check),
    )


class NeuralCDEKind(SeriesClassifierKind):
    """By a neural CDE."""

    def network(self, settings: NeuralCDEConfig, info: LabelledSeriesInfo) -> nn.Module:
        """See `deqzoo.models.NeuralCDEClassifier`."""
        least_dropped(settings, info)
        solver, adjoint = ode_solver(settings), ode_adjoint(settings)
        return construct(NeuralCDEClassifier, settings, info, solver=solver, adjoint=adjoint)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.ode_for_use`."""
        ode_for_use(settings, solver, tol, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Interpolation and solver besides."""
        return {
            "path": f"{model['interpolation']} interpolation of time and values",
            "forward solver": described(model["solver"], model["solver_options"]),
            "adjoint": described(model["adjoint"], model["adjoint_options"]),
            **super().facts(model),
        }

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """Paths through test series besides."""
        from deqzoo.data.labelled_series import LabelledSeriesBatch
        from deqzoo.plots import plot_paths

        super().plots(trained, folder)
        data = LabelledSeriesBatch(*(part[:2] for part in next(trained.test_batches())))
        network: Any = trained.network
        times, whole = data.times[0], data.shown(0.0)
        fractions = trained.settings.dropped_fractions
        fine = torch.linspace(times[0].item(), times[-1].item(), 400, device=times.device)
        paths = {fraction: network.path(times, data.values, data.shown(fraction)) for fraction in fractions}
        curves = {fraction: path(fine)[..., 1:].movedim(0, 1).cpu() for fraction, path in paths.items()}
        scaled = ((data.values - network.mean) / network.std).where(whole, torch.nan).cpu()
        shown = {fraction: scaled.where(data.shown(fraction).cpu(), torch.nan) for fraction in fractions}
        plot_paths(times.cpu(), fine.cpu(), scaled, shown, curves, folder / "paths.png")


class GRUDKind(SeriesClassifierKind):
    """By a GRU-D."""

    def network(self, settings: GRUDConfig, info: LabelledSeriesInfo) -> nn.Module:
        """See `deqzoo.models.GRUDClassifier`."""
        least_dropped(settings, info)
        return construct(GRUDClassifier, settings, info)


def least_dropped(settings: Any, info: LabelledSeriesInfo) -> None:
    """An error where a test would show values that the data do not have."""
    least = min(settings.dropped_fractions)
    if least < info.dropped:
        raise ConfigError(
            f"model.dropped_fractions begins at {least:g}, but data.dropped={info.dropped:g} are never shown: give "
            f"data.dropped={least:g}."
        )


@torch.no_grad()
def accuracies(network: nn.Module, trained: Trained, fractions: Sequence[float]) -> list[float]:
    """Of the test series, with each of the fractions of their values dropped."""
    from deqzoo.data.labelled_series import LabelledSeriesBatch
    from deqzoo.models.ode.series_classifier_module import classify

    right = []
    for batch in trained.test_batches():
        data = LabelledSeriesBatch(*batch)
        found = [classify(network, data, data.shown(fraction)).argmax(1) == data.labels for fraction in fractions]
        right.append(torch.stack(found, 1))
    return torch.cat(right).double().mean(0).tolist()


def compare(trained: Trained) -> dict[str, Any]:
    """Accuracies of the network and of its shipped baseline at each of the recipe's fractions."""
    fractions = list(trained.settings.dropped_fractions)
    n = sum(len(batch[-1]) for batch in trained.test_batches())

    def of(network: nn.Module, note: str) -> dict[str, Any]:
        parts = (f"{100 * fraction:.0f}" for fraction in fractions)
        return {"accuracy": dict(zip(parts, accuracies(network, trained, fractions), strict=True)), "note": note}

    steps = [f"{max(row['step'] for row in trained.history) + 1:,.0f} steps"] if trained.history else []
    parameters = sum(parameter.numel() for parameter in trained.network.parameters())
    found: dict[str, Any] = {"n": n}
    found["this entry"] = of(trained.network, ", ".join([f"{parameters:,} parameters", *steps]))
    if baseline := trained.find_baseline(trained.settings.baseline):
        note = f"{baseline.metrics['parameters']:,} parameters, {baseline.metrics['steps']:,} steps"
        found[f"`{baseline.entry}`"] = of(baseline.load(trained.device), note)
    return found


def verdict(check: Mapping[str, Any]) -> str:
    """Where the baseline is the better one, in words."""
    other = next((name for name in check if name.startswith("`")), None)
    if other is None:
        return ""
    ours, theirs = check["this entry"]["accuracy"], check[other]["accuracy"]
    worse = [part for part in ours if theirs[part] > ours[part]]
    if not worse:
        return f"It is at least as good as {other} at each of these fractions, with these seeds."
    return f"{other} is better at {', '.join(worse)} % dropped, with these seeds."


CDE = NeuralCDEKind()
GRUD = GRUDKind()
