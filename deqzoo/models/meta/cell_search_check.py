"""What first-order DARTS and random search find at the cost of a search by implicit gradients, or more."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from deqzoo.models.common.kind import Trained
from deqzoo.models.meta.cell_search_network import DERIVED_FROM, PLACES, CellSearch, Choice, Fit, temperature

FIRST_ORDER = 1.25  # steps of first-order DARTS for each by implicit gradients: it solves no linear system
RANDOM = 2.0  # random cells for each step: no gradient is taken of them


class Cell(NamedTuple):
    """Operations, the classifier that was fitted to them, and what both are worth on the validation set."""

    choice: Choice
    fitted: Fit
    validation_loss: float
    validation_error: float


class Rivals:
    """Other searches in the space of a trained `CellSearch`, with its solvers and its data, of the steps of an epoch.

    Args:
        trained: its network is copied: the searches here leave it as it is.
    """

    def __init__(self, trained: Trained) -> None:
        network: Any = copy.deepcopy(trained.network)
        self.network: CellSearch = network
        self.settings, self.seed, self.shape = trained.settings, trained.data.seed, trained.data.info.shape
        loader = trained.data.train_dataloader()
        self.steps, batch = len(loader), next(iter(loader))
        self.images, self.labels, self.validation, self.validation_labels = (part.to(trained.device) for part in batch)
        self.test = list(trained.test_batches())

    @torch.no_grad()
    def examine(self, choice: Choice) -> Cell:
        """Fit the classifier of a cell, from zero, as `CellSearch.derive` does."""
        network = self.network
        fitted = network.fit_cell(self.images, self.labels, choice, torch.zeros_like(network.weights))
        logits = network.logits(self.validation, choice, fitted)
        loss = F.cross_entropy(logits, self.validation_labels).item()
        return Cell(choice, fitted, loss, _wrong(logits, self.validation_labels).mean().item())

    @torch.no_grad()
    def test_error(self, cell: Cell) -> float:
        """In [0, 1]."""
        wrong = [_wrong(self.network.logits(x, cell.choice, cell.fitted), y) for x, y in self.test]
        return torch.cat(wrong).mean().item()

    def random_cells(self) -> list[Cell]:
        """`RANDOM` cells for each step, each operation drawn with the same probability; the same always for a seed."""
        generator = torch.Generator().manual_seed(self.seed)
        channels = len(self.network.scores[0])

        def draw(count: int) -> Tensor:
            indices = torch.randint(count, (channels,), generator=generator)
            return F.one_hot(indices, count).to(self.images)

        drawn = [[draw(len(operations)) for operations in PLACES.values()] for _ in range(round(RANDOM * self.steps))]
        return [self.examine(choice) for choice in drawn]

    def search(self, first_order: bool) -> Cell:
        """The cell that a search finds, by gradients of first order or implicit ones, from the start of the seed."""
        network, steps = self._fresh(first_order), round((FIRST_ORDER if first_order else 1) * self.steps)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.settings.lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            network.temperature = temperature(step / max(steps - 1, 1), self.settings.last_temperature)
            logits = network(self.validation, network.fit(self.images, self.labels))
            optimizer.zero_grad()
            F.cross_entropy(logits, self.validation_labels).backward()
            optimizer.step()
            schedule.step()
            if step + 1 >= DERIVED_FROM * steps:
                network.derive(self.images, self.labels, self.validation, self.validation_labels)
        return self.examine(network.derived())

    def _fresh(self, first_order: bool) -> CellSearch:
        network, settings = self.network, self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            fresh = CellSearch(
                self.shape,
                network.weights.shape[1],
                channels=settings.channels,
                strength=settings.strength,
                first_order=first_order,
                solver=network.solver,
                linear_solver=network.linear_solver,
                on_failure=network.on_failure,
            )
        return fresh.to(self.images.device)


def measure_search(trained: Trained) -> dict[str, Any]:
    """Validation loss and test error of the cell found, of the rivals', and the processor time (s) of each search.

    The implicit search is repeated to be timed beside the others.
    """
    rivals, network = Rivals(trained), trained.network
    assert isinstance(network, CellSearch)
    (_, of_implicit), (first_order, of_first_order), (random, of_random) = (
        _timed(lambda: rivals.search(first_order=False)),
        _timed(lambda: rivals.search(first_order=True)),
        _timed(rivals.random_cells),
    )
    best = min(random, key=lambda cell: cell.validation_loss)
    rows = {
        "implicit": (rivals.examine(network.derived()), of_implicit, rivals.steps),
        "first_order": (first_order, of_first_order, round(FIRST_ORDER * rivals.steps)),
        "random": (best, of_random, len(random)),
    }
    return {
        name: {
            "test_error": rivals.test_error(cell),
            "validation_error": cell.validation_error,
            "validation_loss": cell.validation_loss,
            "seconds": seconds,
            "steps": steps,
        }
        for name, (cell, seconds, steps) in rows.items()
    } | {
        "mean_random_test_error": sum(map(rivals.test_error, random)) / len(random),
        "mixture_validation_error": _mixture_error(rivals, network),
    }


def check_rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of the card's table."""
    labels = {
        "implicit": "implicit gradients, {} steps",
        "first_order": "first-order DARTS, {} steps",
        "random": "best of {} random cells by validation loss",
    }
    rows = []
    for name, label in labels.items():
        found, label = check[name], label.format(check[name]["steps"])
        required = "at most the other two's (mean of seeds)" if name == "implicit" else ""
        rows += [
            (f"test error, {label}", f"{100 * found['test_error']:.2f} %", required),
            (f"validation loss, {label}", f"{found['validation_loss']:.4f}", ""),
            (f"processor time of the search, {label}", f"{found['seconds']:.1f} s", ""),
        ]
    mean = f"{100 * check['mean_random_test_error']:.2f} %"
    return [*rows, ("test error, a random cell on average", mean, "")]


def check_text(check: Mapping[str, Any]) -> str:
    """What the rows compare."""
    return (
        "Each cell has single operations, and a classifier that was fitted to it anew, to the same training images. "
        "The validation error of the mixtures, before the cell was derived, was "
        f"{100 * check['mixture_validation_error']:.2f} %."
    )


def _mixture_error(rivals: Rivals, network: CellSearch) -> float:
    choice = copy.deepcopy(network)
    choice.temperature = rivals.settings.last_temperature
    with torch.no_grad():
        return rivals.examine(choice.mixtures()).validation_error


def _timed(search: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return search(), time.process_time() - start


def _wrong(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) != labels).float()
