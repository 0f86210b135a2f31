"""What a cell that contracts by construction gains and loses on the digits, by exact, truncated and one-step gradients.

Each row is trained as its recipe says it, for the epochs of deq_digits, from the same seeds, and tested on the 360
test digits with the recipe's solver. Converged is an image of which each equilibrium has a relative residual of at
most 1e-2.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import time
from typing import Any

import torch
from torch import nn

from benchmarks.report import finished, open_console, print_table, started
from deqzoo.data import ImageData
from deqzoo.models import build_network
from deqzoo.models.registry import kind_of
from deqzoo.nn import solver_layers
from deqzoo.nn.deq import recorded_residuals
from studies.training import fit, recipe

CONVERGED = 1e-2
ONE_STEP: dict[str, Any] = {"adjoint": "one_step", "adjoint_options": {}}


def implicit(linear_solver: str, **options: float) -> dict[str, Any]:
    """Settings of an implicit gradient by a linear solver."""
    return {
        "adjoint": "implicit",
        "adjoint_options": {"linear_solver": linear_solver, "linear_solver_options": options},
    }


ROWS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {  # recipe, and what is changed in it
    ("well posed", "exact gradient"): ("deq_digits", {}),
    ("well posed", "truncated, 2 products"): ("deq_digits", implicit("neumann", k=2)),
    ("well posed", "one step"): ("deq_digits", ONE_STEP),
    ("explicit", "each cell applied once"): ("deq_digits", {"body": "once"}),
    ("explicit", "layers with the same number of parameters"): ("deq_digits", {"body": "explicit"}),
    ("monDEQ", "exact gradient"): ("mondeq_mnist", {"widths": [27]}),  # the same number of parameters
    ("Jacobian penalty", "phantom gradient, 3 steps"): ("deq_digits_unbounded", {}),
    ("Jacobian penalty", "exact gradient"): ("deq_digits_unbounded", implicit("gmres", tol=1e-3, max_steps=30)),
    ("Jacobian penalty", "one step"): ("deq_digits_unbounded", ONE_STEP),
}


@dataclasses.dataclass
class Row:
    """One row: a value for each seed."""

    group: str
    option: str
    accuracies: list[float]
    unconverged: list[float]  # fraction of the images
    residuals: list[float]  # the largest
    nfe: list[float]  # the largest over the layers
    seconds: list[float]  # of processor time in training

    def shown(self) -> list[str]:
        """Accuracy in per cent, its standard deviation, per cent not converged, largest residual, NFE, seconds."""
        spread = 100 * statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else float("nan")
        return [
            f"{100 * statistics.mean(self.accuracies):.2f}",
            f"{spread:.2f}",
            f"{100 * statistics.mean(self.unconverged):.1f}",
            f"{max(self.residuals):.1e}",
            f"{statistics.mean(self.nfe):.1f}",
            f"{statistics.mean(self.seconds):.0f}",
        ]


@torch.no_grad()
def test(network: nn.Module, data: ImageData) -> tuple[float, float, float, float]:
    """Accuracy, fraction that is not converged, largest residual and NFE on the test digits."""
    ((images, labels),) = data.test_dataloader()
    equilibria: Any = [] if not solver_layers(network) else network.equilibria  # type: ignore[union-attr]
    with recorded_residuals(equilibria) as found:
        right = network.eval()(images).argmax(1) == labels
    worst = torch.stack(found).amax(0) if found else torch.zeros(len(labels))
    missed = (worst > CONVERGED).double().mean().item()
    nfe = max((layer.solution.nfe for layer in equilibria), default=1)
    return right.double().mean().item(), missed, worst.max().item(), float(nfe)


def measure(name: tuple[str, str], seeds: range, quick: bool) -> Row:
    """Train with every seed."""
    entry, changes = ROWS[name]
    settings = recipe(entry)[0]
    _, options, trainer = recipe("deq_digits")
    settings = dataclasses.replace(settings, **copy.deepcopy(changes))
    row = Row(*name, [], [], [], [], [])
    for seed in seeds:
        data = ImageData(options.name, seed=seed, batch_size=options.batch_size, augment=options.augment)
        data.setup()
        torch.manual_seed(seed)
        module = kind_of(settings.kind).module(build_network(settings, data.info), settings)
        start = time.process_time()
        fit(module, data, trainer.max_epochs, 3 if quick else -1)
        row.seconds.append(time.process_time() - start)
        data.trainer = None
        found = test(module.trained_network, data)
        for values, value in zip((row.accuracies, row.unconverged, row.residuals, row.nfe), found, strict=True):
            values.append(value)
    return row


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings each row gets")
    options = started(__doc__, parser)
    console = open_console()
    rows = []
    for name in ROWS:
        rows.append(measure(name, range(1 if options.quick else options.seeds), options.quick))
        console.print(", ".join([*name, *rows[-1].shown()]), style="dim")
    print_table(
        console,
        f"360 test digits, {len(rows[0].accuracies)} seed(s)",
        ["", ""],
        ["accuracy %", "spread", "not converged %", "largest residual", "NFE", "training, s"],
        [(row.group, row.option, *row.shown()) for row in rows],
    )
    return finished(options, ["deqzoo", "lightning"], rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
