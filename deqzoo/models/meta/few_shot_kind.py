"""The kind ``few_shot``: an image classifier that adapts to classes of which it has seen a few images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import FewShotInfo
from deqzoo.models.common.kind import META, Kind, Trained
from deqzoo.models.common.options import construct
from deqzoo.models.meta.config import FewShotConfig
from deqzoo.models.meta.few_shot_network import FewShotNetwork
from deqzoo.models.meta.learner import MetaLearner
from deqzoo.models.meta.options import adaptation, adaptation_facts, adaptation_for_use

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


class FewShotKind(Kind):
    """Support images, their labels and query images in, logits out."""

    family = META
    info = FewShotInfo
    metric = "accuracy"
    shown = ("accuracy", "accuracy_alone")
    takes = "support images, labels, query images (episodes, n, C, H, W) -> logits"

    def network(self, settings: FewShotConfig, info: FewShotInfo) -> nn.Module:
        """See `deqzoo.models.FewShotNetwork` and `deqzoo.models.MetaLearner`."""
        network = construct(FewShotNetwork, settings, info)
        loss = nn.functional.cross_entropy
        return construct(MetaLearner, settings, network=network, method=adaptation(settings), loss=loss)

    def module(self, network: nn.Module, settings: FewShotConfig) -> "SolverModule":
        """Cross-entropy of the queries."""
        from deqzoo.models.meta.module import FewShotModule

        return FewShotModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.meta.options.adaptation_for_use`."""
        adaptation_for_use(settings, solver, tol, max_steps)

    def example(self, info: FewShotInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Two episodes, of a few queries: the files of all entries lie in the repository."""
        if batch is not None:
            parts = [part[:2].cpu() for part in batch[:3]]
            parts[2] = parts[2][:, :: max(1, parts[2].shape[1] // (3 * info.ways))]  # about three per class
        else:
            random = torch.Generator().manual_seed(0)
            support, queries = (
                torch.rand(2, info.ways * n, info.in_channels, *info.size, generator=random) for n in (info.shots, 3)
            )
            parts = [support, torch.arange(info.ways).repeat_interleave(info.shots).expand(2, -1), queries]
        return dict(zip(("support_inputs", "support_targets", "query_inputs"), parts, strict=True))

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The method and its options, and the network."""
        return adaptation_facts(model) | {
            "network": f"four convolutions of {model['width']}, {model['activation']}"
            + (", head from zero" if model["zero_head"] else "")
        }

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training."""
        from deqzoo.plots import FEW_SHOT_PANELS, plot_training

        implicit = trained.settings.method == "imaml"
        panels = {label: curves for label, curves in FEW_SHOT_PANELS.items() if implicit or label.startswith("query")}
        plot_training(trained.history, folder / "training.png", panels)


KIND = FewShotKind()
