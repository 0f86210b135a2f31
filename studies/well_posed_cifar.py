"""Choices of the recipe deq_cifar: its network, its bound, its solves and its training, one thing changed each.

All see the same batches of CIFAR-10 and are tested on images of the validation part with the recipe's solver. The loss
is the mean over the last fifth of the training, a less noisy measure than the accuracy. `--plot FILE` draws it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import finished, open_console, print_table, started
from deqzoo.data import ImageData
from deqzoo.models import ImageClassifier, build_network
from deqzoo.models.common.kind import first_batches
from deqzoo.models.registry import kind_of
from deqzoo.nn.deq import recorded_residuals
from deqzoo.plots.figure import panels, save
from deqzoo.training.device import precision
from studies import well_posed_variants as variants
from studies.training import Losses, fit, recipe


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings that are changed, what is done to the network, the precision, and how much longer the training is."""

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    change: Callable[[ImageClassifier], None] | None = None
    precision: str | None = None  # None: the recipe's
    length: float = 1.0


def rho(rho_max: float, start: float) -> Choice:
    """A bound, and the gain that every channel starts with."""
    return Choice({"rho_max": rho_max, "rho": start})


CHOICES: dict[tuple[str, str], Choice] = {
    ("recipe", "narrower, not flip-equivariant"): Choice(),
    ("explicit", "each cell applied once"): Choice({"body": "once"}),
    ("explicit", "layers with the same number of parameters"): Choice({"body": "explicit"}),
    ("width", "48/192/192"): Choice({"widths": [48, 192, 192]}),
    ("width", "64/256/256"): Choice({"widths": [64, 256, 256]}),
    ("state", "two equilibria in a stage"): Choice(change=variants.two_equilibria),
    ("state", "two kernels in a cell"): Choice(change=variants.with_cells(variants.TwoKernelCell)),
    ("state", "four groups of channels, half as wide again"): Choice(
        {"widths": [48, 192, 192]}, variants.with_cells(variants.GroupedCell)
    ),
    ("network", "flip-equivariant"): Choice({"flip_equivariant": True}),
    ("network", "flip-equivariant, half as wide again"): Choice({"flip_equivariant": True, "widths": [48, 192, 192]}),
    ("network", "shortcuts between the stages"): Choice(change=variants.shortcuts),
    ("network", "GELU, scaled"): Choice(change=variants.with_cells(variants.ScaledGELUCell)),
    ("network", "averaged map, .7"): Choice(change=variants.averaged),
    ("bound", "rho below .7, from .5"): rho(0.7, 0.5),
    ("bound", "rho below .97, from .93"): rho(0.97, 0.93),
    ("bound", "rho below 1.1, from .93: not certified"): rho(1.1, 0.93),
    ("solves", "Anderson"): Choice({"solver": "anderson"}),
    ("training", "moving average of the weights"): Choice({"lookahead_every": 0, "ema_decay": 0.98}),
    ("training", "no average of the weights"): Choice({"lookahead_every": 0}),
    ("training", "float32"): Choice(precision="32-true"),
    ("length", "twice as long"): Choice(length=2.0),
    ("length", "four times as long"): Choice(length=4.0),
}


@dataclasses.dataclass
class Row:
    """A choice, and what came of it."""

    group: str
    choice: str
    parameters: int
    loss: float
    accuracy: float  # on the validation images
    residual: float  # relative, the largest
    nfe: int  # the largest over the layers
    seconds: float  # CPU time of a training step
    certified: bool
    losses: list[float]


def measure(name: tuple[str, str], choice: Choice, options: argparse.Namespace) -> Row:
    """Train and test one choice."""
    settings, data, trainer = recipe("deq_cifar")
    plain = {"widths": options.widths, "flip_equivariant": False}  # most of the other networks have no such symmetry
    settings = dataclasses.replace(settings, **plain | copy.deepcopy(choice.settings))
    settings = dataclasses.replace(settings, baseline=None)
    images = ImageData("cifar10", batch_size=data.batch_size, augment=data.augment, root=options.root)
    if options.quick:
        settings, images = dataclasses.replace(settings, widths=[8], halve_first=False), ImageData("digits")
    torch.manual_seed(0)
    network: Any = build_network(settings, images.info)
    if choice.change is not None:
        choice.change(network)
    network.to(memory_format=torch.channels_last)
    module: Any = kind_of(settings.kind).module(network, settings)
    losses = Losses()
    steps = 3 if options.quick else round(options.steps * choice.length)
    started_at = time.process_time()
    bits = choice.precision or precision(trainer)
    fit(module, images, epochs=1000, steps=steps, precision=bits, callbacks=[losses])
    seconds = (time.process_time() - started_at) / steps
    network = module.trained_network.eval()
    accuracy, residual, nfe = test(network, first_batches(images.val_dataloader(), 100 if options.quick else 5000))
    tail = losses.values[-max(1, steps // 5) :]
    parameters = sum(p.numel() for p in network.parameters())
    certified = bool(network.equilibria) and all(layer.certified for layer in network.equilibria)
    return Row(*name, parameters, sum(tail) / len(tail), accuracy, residual, nfe, seconds, certified, losses.values)


@torch.no_grad()
def test(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float, int]:
    """Accuracy, largest residual and NFE over the layers."""
    equilibria: Any = network.equilibria
    right, nfe = [], 1
    with recorded_residuals(equilibria) as residuals:
        for images, labels in batches:
            right.append(network(images).argmax(1) == labels)
            nfe = max([nfe, *(layer.solution.nfe for layer in equilibria)])
    worst = torch.cat(residuals).max().item() if residuals else 0.0
    return torch.cat(right).double().mean().item(), worst, nfe


def plot(rows: list[Row], path: Path) -> None:
    """Training loss over the steps, a curve for each choice, each point the mean of twenty steps."""
    groups = list(dict.fromkeys(row.group for row in rows if row.group != "recipe"))
    figure, axes = panels(len(groups), "Choices of deq_cifar")
    for group, axis in zip(groups, axes, strict=True):
        for row in rows:
            if row.group in ("recipe", group):
                whole = torch.tensor(row.losses)
                means = whole[: len(whole) // 20 * 20].view(-1, 20).mean(1)
                axis.plot(torch.linspace(0, 1, len(means)), means, label=row.choice)
        axis.set(xlabel="part of the training", ylabel="loss", title=group)
        axis.legend(frameon=False, fontsize=6)
    save(figure, path)


def shown(row: Row) -> tuple[str, ...]:
    """As a line of the table."""
    return (
        row.group, row.choice, f"{row.parameters:,}", f"{row.loss:.3f}", f"{100 * row.accuracy:.1f}",
        f"{row.residual:.1e}", f"{row.nfe}", "yes" if row.certified else "no", f"{row.seconds:.2f}",
    )  # fmt: skip


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", help="where cifar-10-batches-bin lies (default: as data.root)")
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128, 128], help="of the network")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the losses")
    parser.add_argument("--only", nargs="+", metavar="GROUP", help="groups of choices to run (default: all)")
    options = started(__doc__, parser)
    console, rows = open_console(), []
    for name, choice in CHOICES.items():
        if options.only and name[0] not in options.only:
            continue
        rows.append(measure(name, choice, options))
        console.print(", ".join(shown(rows[-1])), style="dim")
    print_table(
        console,
        f"deq_cifar, {options.steps} steps of 125 images",
        ["", "choice"],
        ["parameters", "loss", "accuracy %", "largest residual", "NFE", "certified", "s per step"],
        map(shown, rows),
    )
    if options.plot:
        plot(rows, options.plot)
    return finished(options, ["deqzoo", "lightning"], rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
