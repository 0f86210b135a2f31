"""The kind ``meta_regression``: a perceptron that adapts to a regression task from a few points of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import RegressionTaskInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.kind import META, Check, Kind, Trained
from deqzoo.models.common.options import construct
from deqzoo.models.meta.config import MetaRegressionConfig
from deqzoo.models.meta.learner import MetaLearner
from deqzoo.models.meta.options import adaptation, adaptation_facts, adaptation_for_use
from deqzoo.nn.dynamics import mlp

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "tanh": nn.Tanh}
DRAWN = 3  # tasks in a figure


class MetaRegressionKind(Kind):
    """Support points and query inputs in, predictions out."""

    family = META
    info = RegressionTaskInfo
    metric = "mse"
    takes = "support inputs, their targets, query inputs (tasks, n, 1) -> predictions"

    def network(self, settings: MetaRegressionConfig, info: RegressionTaskInfo) -> nn.Module:
        """See `deqzoo.models.MetaLearner`."""
        if settings.activation not in ACTIVATIONS:
            raise ConfigError(f"model.activation={settings.activation}: valid are {', '.join(sorted(ACTIVATIONS))}.")
        sizes = (info.in_features, *settings.hidden, info.out_features)
        network = mlp(*sizes, activation=ACTIVATIONS[settings.activation])
        loss = nn.functional.mse_loss
        return construct(MetaLearner, settings, network=network, method=adaptation(settings), loss=loss)

    def module(self, network: nn.Module, settings: MetaRegressionConfig) -> "SolverModule":
        """Squared error of the queries."""
        from deqzoo.models.meta.module import MetaRegressionModule

        return MetaRegressionModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.meta.options.adaptation_for_use`."""
        adaptation_for_use(settings, solver, tol, max_steps)

    def example(self, info: RegressionTaskInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four tasks."""
        if batch is not None:
            parts = [part[:4].cpu() for part in batch[:3]]
        else:
            random = torch.Generator().manual_seed(0)
            features = (info.in_features, info.out_features, info.in_features)
            parts = [torch.randn(4, info.shots, n, generator=random) for n in features]
        return dict(zip(("support_inputs", "support_targets", "query_inputs"), parts, strict=True))

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The method and its options."""
        return adaptation_facts(model)

    check = Check(
        name="adaptation",
        title="Does it adapt?",
        measure=lambda trained: _measure(trained),
        rows=lambda check: _rows(check),
    )

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """Some test tasks before and after adaptation, and the course of the training."""
        from deqzoo.plots import META_PANELS, plot_adaptation, plot_training

        learner: Any = trained.network
        x, y, queries, targets = (part[:DRAWN].cpu() for part in next(trained.test_batches()))
        low, high = trained.data.span
        grid = torch.linspace(low, high, 200)[:, None].expand(len(x), -1, 1)
        before = learner.network(grid.to(trained.device)).cpu()
        after = learner(*(part.to(trained.device) for part in (x, y, grid))).cpu()
        plot_adaptation(grid, {"before": before, "after": after}, (x, y), (queries, targets), folder / "adaptation.png")
        implicit = trained.settings.method == "imaml"
        panels = {label: curves for label, curves in META_PANELS.items() if implicit or label.startswith("query")}
        plot_training(trained.history, folder / "training.png", panels)


def _measure(trained: Trained) -> dict[str, Any]:
    """Mean squared errors on the test tasks before and after adaptation, and those of shipped baselines beside them."""
    learner: Any = trained.network
    with torch.no_grad():
        before = [(learner.network(queries) - targets).square() for _, _, queries, targets in trained.test_batches()]
    own = _errors(learner, trained)
    return {
        "before": torch.cat(before).mean().item(),
        "after": own.mean().item(),
        "shots": trained.data.info.shots,
        "baselines": _baselines(own, trained),
    }


@torch.no_grad()
def _errors(learner: Any, trained: Trained) -> Tensor:
    """Mean squared error of the queries of each test task after adaptation, (tasks,)."""
    batches = trained.test_batches()
    return torch.cat([(learner(x, y, queries) - targets).square().mean((1, 2)) for x, y, queries, targets in batches])


def _rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [
        ("query error before adaptation", f"{check['before']:.4f}", ""),
        (f"query error after adaptation to {check['shots']} points", f"{check['after']:.4f}", "much less"),
    ]
    for name, found in check["baselines"].items():
        rows.append((f"the same of `{name}`", f"{found['mse']:.4f} ± {found['mse_interval']:.4f}", ""))
        if "difference" in found:  # not in older checks
            shown = f"{found['difference']:+.4f} ± {found['difference_interval']:.4f}"
            rows.append((f"this entry's error less that of `{name}`, on the same tasks", shown, ""))
    return rows


def _baselines(own: Tensor, trained: Trained) -> dict[str, dict[str, float]]:
    """What the shipped ones of the baselines reached, and the paired difference of ``own`` errors from theirs, with the
    half-widths of 95 % intervals."""
    found = {}
    for entry in trained.settings.baselines:
        if baseline := trained.find_baseline(entry):
            gaps = own - _errors(baseline.load(trained.device), trained)
            found[entry] = {name: baseline.metrics["test"][name] for name in ("mse", "mse_interval")} | {
                "difference": gaps.mean().item(),
                "difference_interval": 1.96 * gaps.std().item() / len(gaps) ** 0.5,
            }
    return found


KIND = MetaRegressionKind()
