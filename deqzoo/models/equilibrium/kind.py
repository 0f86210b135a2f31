"""What the kinds of image classifiers made of equilibria share: module, example, facts, plots, check."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.images import image_example, symmetry_facts
from deqzoo.models.common.kind import EQUILIBRIA, Check, Kind, Trained, first_batches
from deqzoo.models.common.options import (
    described,
    fixed_point_for_use,
)
from deqzoo.models.equilibrium.check import check_rows, deq_check
from deqzoo.nn import solver_layers

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


DRAWN = 500  # test images in the plot of accuracy over NFE


class EquilibriumKind(Kind):
    """Base of the kinds: images in, logits out, and fixed points in between."""

    family = EQUILIBRIA
    info = ImageInfo
    metric = "accuracy"
    takes = "raw images in [0, 1] -> logits"
    try_next = "model.solver=broyden"
    compared: ClassVar[Sequence[str]] = ("anderson", "broyden", "picard")  # solvers in the plots

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy, the Jacobian penalty, and losses on the way to the fixed point."""
        from deqzoo.models.equilibrium.module import DEQClassifierModule

        try:
            return DEQClassifierModule.of(network, settings)
        except ValueError as error:
            raise ConfigError(f"model.{error}.") from error

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`."""
        fixed_point_for_use(settings, solver, tol, max_steps)

    def example(self, info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images."""
        return image_example(info, batch)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Symmetry, solver and gradient."""
        return {
            **symmetry_facts(model),
            "forward solver": described(model["solver"], model["solver_options"]),
            "adjoint": described(model["adjoint"], model["adjoint_options"]),
        }

    def plots(self, trained: Trained, folder: Path) -> None:
        """Accuracy and residual over NFE for each solver, residuals over the steps, and the course of the training."""
        from deqzoo.plots import budget_curves, plot_budget, plot_residuals, plot_training, residual_traces

        batches = first_batches(((images, labels) for images, labels in trained.test_batches()), DRAWN)
        plot_budget(budget_curves(trained.network, batches, self.compared), folder / "accuracy_over_nfe.png")
        tol = trained.settings.solver_options.get("tol")
        plot_residuals(residual_traces(trained.network, batches[0][0][:32]), tol, folder / "residuals.png")
        plot_training(trained.history, folder / "training.png")

    check = Check(
        name="deq_check",
        title="Does the equilibrium do the work?",
        measure=lambda trained: measure_deq(trained),
        rows=check_rows,
    )


def measure_deq(trained: Trained) -> dict[str, Any]:
    """`deq_check` on all test images, and the baseline's accuracy; nothing of explicit networks."""
    if not solver_layers(trained.network):
        return {}
    found = deq_check(trained.network, ((images, labels) for images, labels in trained.test_batches()))
    if baseline := trained.find_baseline(trained.settings.baseline):
        accuracy = baseline.metrics["test"]["accuracy"]
        found["baseline"] = {"entry": baseline.entry, "accuracy": accuracy} | baseline.costs()
    return found
