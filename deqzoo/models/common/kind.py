"""What the pipeline asks of a kind of models, to train, export, load and describe it.

A kind answers the pipeline's questions (`Kind`): how to build its network from typed settings, how to train it, which
number it is judged by, what to draw and to check. Its settings are a dataclass in the ``config.py`` of its family. The
files of kinds import no Lightning: a network is built and loaded without.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import DataInfo
from deqzoo.models.common.metrics import METRICS, result, total

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

EQUILIBRIA, ODES, FLOWS, META, OPTIMISATION = FAMILIES = (  # the zoo's tables have one part for each
    "Deep equilibrium models and their explicit baselines",
    "Neural ODEs",
    "Continuous normalising flows",
    "Meta-learning and hyperparameters by implicit gradients",
    "Optimisation layers and their explicit baselines",
)


@dataclass(frozen=True)
class Baseline:
    """A trained entry for the same data, to compare with.

    Attributes:
        entry: its name, or the folder of a checkpoint.
        metrics: its ``metrics.json``.
        load: makes its network, in eval mode, on a device.
    """

    entry: str
    metrics: Mapping[str, Any]
    load: Callable[[torch.device], nn.Module]

    def costs(self) -> dict[str, float]:
        """Parameters, and the steps and time (s) of the whole training."""
        return {"parameters": self.metrics["parameters"]} | {
            cost: total(cost, self.metrics) for cost in ("steps", "time")
        }


@dataclass(frozen=True)
class Trained:
    """A trained network, and what its plots and its check may look at.

    Attributes:
        network: in eval mode, on ``device``.
        settings: its typed settings.
        data: the data module.
        device: where it was tested.
        history: rows of the run's ``metrics.csv``.
        find_baseline: the trained entry of a name, or None where it does not serve to compare with.
        among: of the batches of the test set those that are looked at.
    """

    network: nn.Module
    settings: Any
    data: Any
    device: torch.device
    history: Sequence[Mapping[str, float]]
    find_baseline: Callable[[str | None], Baseline | None] = lambda entry: None
    among: Callable[[Any], Iterable[tuple[Tensor, ...]]] = iter

    def test_batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches of the test set, on the device."""
        for batch in self.among(self.data.test_dataloader()):
            yield tuple(part.to(self.device) for part in batch)


@dataclass(frozen=True)
class Check:
    """A kind's own examination of a trained network; it goes to ``metrics.json`` and to the card.

    Attributes:
        name: its key in ``metrics.json``.
        title: the heading in the card.
        measure: makes it, as what JSON can hold.
        rows: of the card's table (check, measured, required), from what ``measure`` gave.
        text: what the card says below the table, in Markdown, if anything.
    """

    name: str
    title: str
    measure: Callable[[Trained], dict[str, Any]]
    rows: Callable[[Mapping[str, Any]], list[tuple[str, str, str]]]
    text: Callable[[Mapping[str, Any]], str] | None = None


class Kind:
    """What the pipeline asks of a kind; a kind is a subclass that answers.

    Attributes:
        family: one of `FAMILIES`.
        info: what its network must know of the data: it says which data sets fit.
        metric: the number that an entry is judged by, a name of `deqzoo.models.common.metrics.METRICS`.
        shown: the numbers in tables, in their order; empty: that one.
        takes: what the loaded network takes and gives, for the card.
        try_next: an override worth trying on a trained entry; empty: none.
        check: its own examination, if it has one.
    """

    family: str
    info: type[DataInfo]
    metric: str
    shown: Sequence[str] = ()
    takes: str
    try_next: str = ""
    check: Check | None = None

    @property
    def numbers(self) -> Sequence[str]:
        """The names of an entry's numbers, the papers' first."""
        return self.shown or (self.metric,)

    def number(self, name: str, metrics: Mapping[str, Any]) -> str:
        """One of a ``metrics.json`` for people, `metric` with its spread where seeds were compared."""
        return result(name, metrics) if name == self.metric else METRICS[name].show(metrics["test"][name])

    def network(self, settings: Any, info: Any) -> nn.Module:
        """The network of typed settings; what cannot be is a `ConfigError`."""
        raise TypeError(f"{type(self).__name__} does not say how to build a network")

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """The LightningModule that trains ``network``."""
        raise TypeError(f"{type(self).__name__} does not say how to train a network")

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """Change typed settings, in place, to what `deqzoo.load` was asked for; None: as in training."""
        if (solver, tol, max_steps) != (None, None, None):
            raise ValueError(f"a model of kind {settings.kind} has no solver to choose")

    def example(self, info: Any, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """A small input of the network, by the names of its arguments: of a test ``batch``, else of noise."""
        raise TypeError(f"{type(self).__name__} has no example input")

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Lines of the card's table, from the ``model`` section of a ``config.json``."""
        return {}

    def plots(self, trained: Trained, folder: Path) -> None:
        """Draw a trained network and its training into ``folder``."""


Batches = Iterable[tuple[Tensor, Tensor]]


def first_batches(batches: Batches, limit: int) -> Sequence[tuple[Tensor, Tensor]]:
    """The batches up to ``limit`` samples."""
    chosen, left = [], limit
    for images, labels in batches:
        chosen.append((images[:left], labels[:left]))
        left -= len(images)
        if left <= 0:
            break
    return chosen
