"""The kind ``mondeq_classifier``: image classifiers with a monotone operator equilibrium network."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from deqzoo.config import ConfigError
from deqzoo.data.info import ImageInfo
from deqzoo.models.deq_check import check_rows, first_batches
from deqzoo.models.deq_classifier import DEQClassifierKind, measure_deq
from deqzoo.models.kinds import Check, Trained
from deqzoo.models.options import fixed_point_gradient, monotone_solver
from deqzoo.nn import mondeq_conv, mondeq_fc

if TYPE_CHECKING:
    from deqzoo.models.module import SolverModule

COMPARED = ("peaceman_rachford", "forward_backward", "anderson", "picard")  # in the plot
DRAWN = 500  # test images of it


class MonDEQClassifierKind(DEQClassifierKind):
    """Images in, logits out; the body is one monotone equilibrium."""

    try_next = "model.solver=anderson"

    def network(self, settings: Any, info: ImageInfo) -> nn.Module:
        """See `deqzoo.nn.mondeq_conv`, `deqzoo.nn.mondeq_fc`."""
        widths: list[int] = list(settings.widths)
        if settings.body not in ("conv", "fc"):
            raise ConfigError(f"model.body={settings.body}: valid are conv, fc.")
        if not widths or (settings.body == "fc" and len(widths) > 1):
            raise ConfigError(f"model.widths={widths}: conv takes one width a tier, fc takes one.")
        options: Any = {
            "classes": info.classes,
            "mean": info.mean,
            "std": info.std,
            "margin": settings.margin,
            "solver": monotone_solver(settings),
            "gradient": fixed_point_gradient(settings),
        }
        try:
            if settings.body == "conv":
                return mondeq_conv(widths=widths, stride=settings.stride, grid=settings.grid, **options)
            if info.size is None:
                raise ValueError("body=fc needs the size of the images; the data do not state it")
            return mondeq_fc(info.in_channels * prod(info.size), features=widths[0], **options)
        except ValueError as error:
            raise ConfigError(f"model.{error}.") from error

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy."""
        from deqzoo.models.classifier import Classifier

        return Classifier.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Solver, gradient and margin."""
        return super().facts(model) | {"margin of monotonicity": f"{model['margin']:g}"}

    def plots(self, trained: Trained, folder: Path) -> None:
        """Accuracy and residual over NFE for each solver, and the course of the training."""
        from deqzoo.plots import budget_curves, plot_budget, plot_training

        batches = first_batches(((images, labels) for images, labels in trained.test_batches()), DRAWN)
        plot_budget(budget_curves(trained.network, batches, COMPARED), folder / "accuracy_over_nfe.png")
        plot_training(trained.history, folder / "training.png")

    check = Check(
        name="deq_check",
        title="Does the equilibrium do the work?",
        measure=lambda trained: _measure(trained),
        rows=lambda check: check_rows(check) + _baseline_rows(check),
    )


def _measure(trained: Trained) -> dict[str, Any]:
    """`deq_check`, and what the shipped baseline reached."""
    found, baseline = measure_deq(trained), trained.settings.baseline
    if baseline is not None:
        from deqzoo.zoo import CheckpointError
        from deqzoo.zoo.loading import read_checkpoint

        try:
            metrics = read_checkpoint(baseline).metrics
            size = {key: metrics[key] for key in ("parameters", "steps")}
            found["baseline"] = {"entry": baseline, "accuracy": metrics["test"]["accuracy"], **size}
        except CheckpointError:  # it has not been trained yet
            pass
    return found


def _baseline_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    if not (other := check.get("baseline")):
        return []
    size = f"{other['parameters']:,} parameters, {other['steps']:,} steps"
    return [(f"explicit baseline `{other['entry']}` ({size})", f"{100 * other['accuracy']:.2f} %", "all test images")]


KIND = MonDEQClassifierKind()
