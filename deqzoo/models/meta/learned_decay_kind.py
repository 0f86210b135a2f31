"""The kind ``learned_decay``: one decay per weight, learned by implicit gradients of a validation loss."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import FewImageInfo
from deqzoo.models.common.kind import Check, Trained
from deqzoo.models.common.options import construct
from deqzoo.models.meta.config import LearnedDecayConfig
from deqzoo.models.meta.fitted_kind import FittedKind
from deqzoo.models.meta.learned_decay_network import DecayLearner

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # single decays, to compare with


class LearnedDecayKind(FittedKind):
    """Images in, logits out."""

    info = FewImageInfo

    def network(self, settings: LearnedDecayConfig, info: FewImageInfo) -> nn.Module:
        """See `deqzoo.models.DecayLearner`."""
        return construct(
            DecayLearner,
            settings,
            shape=info.shape,
            classes=len(info.classes),
            **self.inner_solvers(settings),
        )

    def module(self, network: nn.Module, settings: LearnedDecayConfig) -> "SolverModule":
        """Cross-entropy of the validation set."""
        from deqzoo.models.meta.learned_decay_module import LearnedDecayModule

        return LearnedDecayModule.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The features and the two solvers."""
        return {"random filters": str(model["filters"]), **super().facts(model)}

    check = Check(
        name="decays",
        title="Is a decay per weight better than a single one?",
        measure=lambda trained: measure_decays(trained),
        rows=lambda check: check_rows(check),
        text=lambda check: check_text(check),
    )

    def plots(self, trained: Trained, folder: Path) -> None:
        """The decays, and the course of the training."""
        from deqzoo.plots import DECAY_PANELS, plot_decays, plot_training

        comparison = Comparison(trained)
        learned = comparison.test_error(comparison.learner.weights)
        errors = {decay: error for decay, _, error in comparison.along_grid()}
        decays = comparison.learner.log_decays.detach().cpu()
        plot_decays(decays, errors, learned, folder / "decays.png")
        plot_training(trained.history, folder / "training.png", DECAY_PANELS)


class Comparison:
    """Fits of a trained learner's features with other decays or other images.

    Args:
        trained: its network is copied: the fits here leave it as it is.
    """

    def __init__(self, trained: Trained) -> None:
        network: Any = copy.deepcopy(trained.network)
        self.learner: DecayLearner = network
        batch = next(iter(trained.data.train_dataloader()))
        images, self.labels, validation, self.validation_labels = (part.to(trained.device) for part in batch)
        with torch.no_grad():
            self.features: Tensor = self.learner.features(images)
            self.validation: Tensor = self.learner.features(validation)
            self.test = [(self.learner.features(x), y) for x, y in trained.test_batches()]

    @torch.no_grad()
    def fit(self, decays: Tensor | float, validation_too: bool = False) -> Tensor:
        """The weights with these decays; ``validation_too``: to both sets, the decays less as the images are more."""
        features, labels = self.features, self.labels
        if validation_too:
            features = torch.cat([features, self.validation])
            labels = torch.cat([labels, self.validation_labels])
            decays = decays * (len(self.labels) / len(labels))
        return self.learner.solve(features, labels, decays)

    def validation_error(self, weights: Tensor) -> float:
        """In [0, 1]."""
        return _wrong(self.validation, self.validation_labels, weights).mean().item()

    def test_error(self, weights: Tensor) -> float:
        """In [0, 1]."""
        return torch.cat([_wrong(*part, weights) for part in self.test]).mean().item()

    def along_grid(self) -> list[tuple[float, float, float]]:
        """Each single decay of `GRID`, its validation and its test error."""
        found = []
        for decay in sorted(GRID, reverse=True):  # each fit starts from the last, and strong decays are solved sooner
            weights = self.fit(decay)
            found.append((decay, self.validation_error(weights), self.test_error(weights)))
        return found[::-1]


def measure_decays(trained: Trained) -> dict[str, Any]:
    """Errors with the learned decays and with a single one, chosen of `GRID` by the validation error.

    ``best_test`` is the lowest test error of the grid, a choice that only an oracle makes. The ``both`` are fitted to
    training and validation images together, with the decays that were found.
    """
    comparison = Comparison(trained)
    learned_weights = comparison.learner.weights.clone()
    grid = comparison.along_grid()
    chosen, single_validation, single = min(grid, key=lambda row: row[1])
    learned, best = comparison.test_error(learned_weights), min(row[2] for row in grid)
    return {
        "grid": [{"decay": decay, "validation": of_val, "test": of_test} for decay, of_val, of_test in grid],
        "chosen": chosen,
        "single": single,
        "single_validation": single_validation,
        "best_test": best,
        "learned": learned,
        "learned_validation": comparison.validation_error(learned_weights),
        "reduction": 1 - learned / single if single else None,
        "reduction_of_best_test": 1 - learned / best if best else None,
        "single_both": comparison.test_error(comparison.fit(chosen, validation_too=True)),
        "learned_both": comparison.test_error(
            comparison.fit(comparison.learner.log_decays.detach().exp(), validation_too=True)
        ),
        "n_train": len(comparison.labels),
        "n_validation": len(comparison.validation_labels),
    }


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of the card's table."""

    def shown(name: str, form: str = ".2%") -> str:
        return "" if check[name] is None else format(check[name], form).replace("%", " %")

    chosen = f"best single decay of {len(check['grid'])} by validation ({check['chosen']:g})"
    both = f"fitted to these and the {check['n_validation']:,} validation images"
    rows = [
        (f"test error, {chosen}", shown("single"), ""),
        ("test error, best single decay by the test set itself", shown("best_test"), ""),
        ("test error, learned decays", shown("learned"), ""),
        ("relative reduction of the first", shown("reduction", ".1%"), "at least 10 %"),
        ("relative reduction of the second", shown("reduction_of_best_test", ".1%"), "at least 10 %"),
        ("validation error, single decay", shown("single_validation"), ""),
        ("validation error, learned decays", shown("learned_validation"), "(they are fitted to it)"),
        (f"test error, single decay, {both}", shown("single_both"), ""),
        (f"test error, learned decays, {both}", shown("learned_both"), ""),
    ]
    return [row for row in rows if row[1]]


def check_text(check: Mapping[str, Any]) -> str:
    """What the rows compare."""
    text = (
        f"All fits are of the same random features and of {check['n_train']:,} training images, to the same tolerance, "
        "but the last two, which take the validation images as training data, too"
    )
    if check["single_both"] < check["learned"]:
        return f"{text}: where their labels may be used so, that serves more than to learn decays by them."
    return f"{text}."


def _wrong(features: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return ((features @ weights).argmax(1) != labels).float()


KIND = LearnedDecayKind()
