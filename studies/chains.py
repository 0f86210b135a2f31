"""How long a chain may be: the implicit graph network and graph convolutions on chains of growing length.

The recipes ign_chains and gcn_chains, with the length of the chains changed alone: each network is trained and tested
on the graph of each length. ``--plot FILE`` draws accuracy over length.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.report import Check, finished, open_console, print_checks, print_table, started
from deqzoo.data import ChainData
from deqzoo.data.chains import GraphBatch
from deqzoo.models import build_network
from deqzoo.models.graph.module import GraphClassifier
from deqzoo.nn import solver_layers
from deqzoo.plots.figure import COLORS, panels, save
from studies.training import fit, recipe

ENTRIES = ("ign_chains", "gcn_chains")
FAR = 50  # hops, beyond which the explicit network can only guess


@dataclasses.dataclass
class Row:
    """One network on chains of one length."""

    length: int
    entry: str
    parameters: int
    accuracy: float  # of all test nodes
    last: float  # of those in the last quarter of a chain
    n: int  # test nodes
    nfe: int | None  # of the test's solve
    seconds: float  # CPU time of a training step


def measure(entry: str, length: int, quick: bool) -> Row:
    """Train and test the entry's recipe on chains of another length."""
    settings, data_settings, trainer = recipe(entry)
    options = {key: value for key, value in vars(data_settings).items() if key not in ("kind", "name")}
    if quick:
        options |= {"chains_per_class": 5, "train_size": 20, "batch_size": 20, "val_size": 10}
    data = ChainData("chains", **options | {"length": length})
    torch.manual_seed(0)
    module = GraphClassifier.of(build_network(settings, data.info), settings)
    start = time.process_time()
    steps = fit(module, data, 2 if quick else trainer.max_epochs, clip=trainer.gradient_clip_val)
    seconds = (time.process_time() - start) / steps
    network = module.trained_network
    accuracy, last, n = test(network, data)
    nfe = next((layer.solution.nfe for layer in solver_layers(network) if layer.solution is not None), None)
    return Row(length, entry, sum(p.numel() for p in network.parameters()), accuracy, last, n, nfe, seconds)


@torch.no_grad()
def test(network: nn.Module, data: ChainData) -> tuple[float, float, int]:
    """Accuracy of all test nodes, and of those in the last quarter of a chain; how many all are."""
    (batch,) = data.test_dataloader()
    graph = GraphBatch(*batch)
    right = (network.eval()(graph.features, graph.edges)[graph.nodes].argmax(1) == graph.labels).double()
    far = data.hops[graph.nodes] >= 0.75 * data.options.length
    return right.mean().item(), right[far].mean().item(), len(right)


def checks(rows: Sequence[Row]) -> list[Check]:
    """What the paper finds: the equilibrium reaches all lengths, convolutions do not."""
    implicit, explicit = ([row for row in rows if row.entry == entry] for entry in ENTRIES)
    worst = min(row.accuracy for row in implicit)
    found = [
        Check("the implicit network is right on 99 % of the nodes, at every length", f"{worst:.2%}", worst >= 0.99)
    ]
    if far := [row.last for row in explicit if row.length >= FAR]:
        promise = f"convolutions guess in the last quarter of chains of {FAR} nodes and more: at most 60 %"
        found.append(Check(promise, f"{max(far):.2%}", max(far) <= 0.6))
    return found


def plot(rows: Sequence[Row], path: Path) -> Path:
    """Accuracy over length, a line per entry."""
    figure, (axis,) = panels(1, "Nodes classified, by the length of the chains")
    for color, entry in zip(COLORS, ENTRIES, strict=False):
        points = [(row.length, 100 * row.accuracy) for row in rows if row.entry == entry]
        axis.plot(*zip(*points, strict=True), label=entry, color=color, marker="o")
    axis.set(xlabel="nodes of a chain", ylabel="accuracy (%)", ylim=(0, 105))
    axis.legend(frameon=False)
    return save(figure, path)


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 20, 50, 100], help="of the chains")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy over length to FILE (PNG)")
    options = started(__doc__, parser)
    lengths = [5, 10] if options.quick else options.lengths
    rows = [measure(entry, length, options.quick) for length in lengths for entry in ENTRIES]
    right: Any = ["parameters", "accuracy %", "last quarter %", "test nodes", "NFE", "ms per step"]
    console = open_console()
    print_table(
        console, "Chains whose first node alone tells the class (chance: 50 %)", ["length", "entry"], right,
        [
            (
                f"{row.length}", row.entry, f"{row.parameters:,}", f"{100 * row.accuracy:.2f}", f"{100 * row.last:.2f}",
                f"{row.n:,}", "-" if row.nfe is None else f"{row.nfe}", f"{1e3 * row.seconds:.0f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    found = checks(rows)
    print_checks(console, found)
    if options.plot:
        plot(rows, options.plot)
    return finished(options, ["deqzoo", "lightning"], found, rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
