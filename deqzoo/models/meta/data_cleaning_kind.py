"""The kind ``data_cleaning``: which training labels are wrong, told by implicit gradients of a clean set's loss."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import NoisyImageInfo
from deqzoo.models.common.kind import Check, Trained
from deqzoo.models.common.options import construct
from deqzoo.models.meta.config import DataCleaningConfig
from deqzoo.models.meta.data_cleaning_network import DataCleaner
from deqzoo.models.meta.fitted_kind import FittedKind

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # tried for what a model is compared with


class DataCleaningKind(FittedKind):
    """Images in, logits out."""

    info = NoisyImageInfo
    argument = "inputs"

    def network(self, settings: DataCleaningConfig, info: NoisyImageInfo) -> nn.Module:
        """See `deqzoo.models.DataCleaner`."""
        channels, height, width = info.shape
        return construct(
            DataCleaner,
            settings,
            examples=info.count,
            features=channels * height * width,
            classes=len(info.classes),
            **self.inner_solvers(settings),
        )

    def module(self, network: nn.Module, settings: DataCleaningConfig) -> "SolverModule":
        """Cross-entropy of the clean set."""
        from deqzoo.models.meta.data_cleaning_module import DataCleaningModule

        return DataCleaningModule.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The two solvers."""
        return {**super().facts(model), "strength": str(model["strength"])}

    check = Check(
        name="cleaning",
        title="Are the wrong labels found?",
        measure=lambda trained: measure_cleaning(trained),
        rows=lambda check: check_rows(check),
    )

    def plots(self, trained: Trained, folder: Path) -> None:
        """The weights of right and wrong examples, and the course of the training."""
        from deqzoo.plots import CLEANING_PANELS, plot_training, plot_trust

        network: Any = trained.network
        plot_trust(network.trust.detach().cpu(), trained.data.wrong, folder / "trust.png")
        plot_training(trained.history, folder / "training.png", CLEANING_PANELS)


def measure_cleaning(trained: Trained) -> dict[str, Any]:
    """What the learned weights tell apart, and test accuracies: of the cleaned classifier, and of three others.

    The baseline takes all labels for right; the oracle is told which are wrong, and leaves them out. For each the
    strength of the penalty is chosen on the clean set. The third is fitted to the clean set alone, with the strength of
    the cleaned one.
    """
    network: Any = trained.network
    images, labels, clean, clean_labels = (
        part.to(trained.device) for part in next(iter(trained.data.train_dataloader()))
    )
    wrong = trained.data.wrong.to(trained.device)
    batches = list(trained.test_batches())

    def accuracy(weights: Tensor) -> float:
        right = [(network(x, weights).argmax(1) == y) for x, y in batches]
        return torch.cat(right).float().mean().item()

    def fitted(strength: float, images: Tensor, labels: Tensor, trust: Tensor) -> Tensor:
        plain = DataCleaner(len(labels), images[0].numel(), network.weights.shape[1], strength=strength)
        return plain.to(trained.device).fit(images, labels, trust)

    def best_of_strengths(trust: Tensor) -> float:
        found = []
        for strength in STRENGTHS:
            weights = fitted(strength, images, labels, trust)
            found.append(((network(clean, weights).argmax(1) == clean_labels).float().mean().item(), weights))
        return accuracy(max(found, key=lambda pair: pair[0])[1])

    with torch.no_grad():
        baseline, oracle = best_of_strengths(torch.ones_like(network.scores)), best_of_strengths((~wrong).float())
        cleaned = accuracy(network.weights)
        everywhere = torch.ones(len(clean_labels), device=trained.device)
        clean_alone = accuracy(fitted(network.strength, clean, clean_labels, everywhere))
    return {
        "baseline": baseline,
        "cleaned": cleaned,
        "oracle": oracle,
        "clean_alone": clean_alone,
        "n_clean": len(clean_labels),
        "gap_closed": (cleaned - baseline) / (oracle - baseline) if oracle != baseline else None,
        "trust_right": network.trust[~wrong].mean().item(),
        "trust_wrong": network.trust[wrong].mean().item() if wrong.any() else None,
        "told_apart": ((network.trust < 0.5) == wrong).float().mean().item(),
    }


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of the card's table."""

    def shown(name: str, form: str) -> str:
        value = check.get(name)  # None where no label is wrong; an older check has no clean_alone
        return "" if value is None else format(value, form).replace("%", " %")

    alone = f"test accuracy, fitted to the {check.get('n_clean', 0):,} clean examples alone"
    rows = [
        ("test accuracy, all labels taken for right", shown("baseline", ".2%"), ""),
        ("test accuracy, cleaned", shown("cleaned", ".2%"), ""),
        ("test accuracy, wrong labels known and left out", shown("oracle", ".2%"), ""),
        (alone, shown("clean_alone", ".2%"), ""),
        ("share of the gap that is closed", shown("gap_closed", ".0%"), "at least 80 %"),
        ("mean weight of right examples", shown("trust_right", ".3f"), "near 1"),
        ("mean weight of wrong examples", shown("trust_wrong", ".3f"), "near 0"),
        ("examples on the right side of .5", shown("told_apart", ".1%"), ""),
    ]
    return [row for row in rows if row[1]]


KIND = DataCleaningKind()
