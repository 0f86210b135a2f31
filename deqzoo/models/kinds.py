"""The kinds of models that the pipeline trains, exports, loads and describes: one entry each in `KINDS`.

A kind answers the pipeline's questions (`Kind`): how to build its network from typed settings, how to train it, which
number it is judged by, what to draw and to check. Its settings are a dataclass in ``config.py`` beside this file. This
file, and the files that it names, import no Lightning: a network is built and loaded without.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from deqzoo.data.info import DataInfo

if TYPE_CHECKING:
    from deqzoo.models.module import SolverModule

KINDS: dict[str, str] = {  # the object that answers for each kind, MODULE:NAME
    "conv_classifier": "deqzoo.models.conv_classifier:KIND",
    "residual_classifier": "deqzoo.models.residual_classifier:KIND",
    "data_cleaning": "deqzoo.models.data_cleaning:KIND",
    "deq_classifier": "deqzoo.models.deq_classifier:KIND",
    "contractive_classifier": "deqzoo.models.contractive_classifier:KIND",
    "mdeq_classifier": "deqzoo.models.mdeq_classifier:KIND",
    "few_shot": "deqzoo.models.few_shot:KIND",
    "graph_convolution": "deqzoo.models.graph:CONVOLUTION",
    "implicit_graph": "deqzoo.models.graph:IMPLICIT",
    "flow": "deqzoo.models.flow:KIND",
    "image_flow": "deqzoo.models.image_flow:KIND",
    "language_model": "deqzoo.models.language_model:KIND",
    "latent_ode": "deqzoo.models.latent_ode:KIND",
    "meta_regression": "deqzoo.models.meta_regression:KIND",
    "mondeq_classifier": "deqzoo.models.mondeq_classifier:KIND",
    "node_pendulum": "deqzoo.models.pendulum:NODE",
    "pinn_pendulum": "deqzoo.models.pendulum:PINN",
    "ode_classifier": "deqzoo.models.ode_classifier:IMAGES",
    "ode_point_classifier": "deqzoo.models.ode_classifier:POINTS",
}

EQUILIBRIA, ODES, FLOWS, META = FAMILIES = (  # the zoo's tables have one part for each
    "Deep equilibrium models and their explicit twins",
    "Neural ODEs",
    "Continuous normalizing flows",
    "Meta-learning and hyperparameters by implicit gradients",
)


@dataclass(frozen=True)
class Trained:
    """A trained network, and what its plots and its check may look at.

    Attributes:
        network: in eval mode, on ``device``.
        settings: its typed settings.
        data: the data module.
        device: where it was tested.
        history: rows of the run's ``metrics.csv``.
    """

    network: nn.Module
    settings: Any
    data: Any
    device: torch.device
    history: Sequence[Mapping[str, float]]

    def test_batches(self) -> Iterator[tuple[Tensor, ...]]:
        """The batches of the test set, on the device."""
        for batch in self.data.test_dataloader():
            yield tuple(part.to(self.device) for part in batch)


@dataclass(frozen=True)
class Check:
    """A kind's own examination of a trained network; it goes to ``metrics.json`` and to the card.

    Attributes:
        name: its key in ``metrics.json``.
        title: the heading in the card.
        measure: makes it, as what JSON can hold.
        rows: of the card's table (check, measured, asked for), from what ``measure`` gave.
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
        metric: the number that an entry is judged by, a name of `deqzoo.models.metrics.METRICS`.
        takes: what the loaded network takes and gives, for the card.
        try_next: an override worth trying on a trained entry; empty: none.
        check: its own examination, if it has one.
    """

    family: str
    info: type[DataInfo]
    metric: str
    takes: str
    try_next: str = ""
    check: Check | None = None

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


def kind_of(name: str) -> Kind:
    """The `Kind` of this name, one of `KINDS`.

    >>> kind_of("deq_classifier").metric
    'accuracy'
    """
    module, _, attribute = KINDS[name].partition(":")
    return getattr(import_module(module), attribute)


def build_network(model: Any, data: DataInfo) -> nn.Module:
    """The network of a recipe's typed ``model`` settings, for data that are as ``data`` says.

    Both are kept in its ``recipe``, from which `deqzoo.export` writes them to the checkpoint. An unknown
    solver, gradient or option is a `ConfigError` that lists the valid ones. Its kernels lie in memory as the setting
    ``channels_last`` says, if the kind has it: in training and after loading alike.
    """
    settings: Any = OmegaConf.to_object(model) if OmegaConf.is_config(model) else model
    network = kind_of(settings.kind).network(settings, data)
    for layer in network.modules():
        if hasattr(layer, "on_failure"):
            layer.on_failure = "ignore"  # type: ignore[assignment]  # the module that trains it logs how solves end
    if getattr(settings, "channels_last", False):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.recipe = (settings, data)  # type: ignore[assignment]
    return network
