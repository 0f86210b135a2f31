"""Options of a DEQ's recipe on deq_digits_unbounded: what each does to accuracy, evaluations and time.

Each option changes one thing in the shipped recipe, is trained for the same number of epochs from the same seeds, and
tested on the same digits; then one training step of each trained network is timed on the same batch, in interleaved
rounds.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from benchmarks.measure import interleaved, median_ratio
from benchmarks.report import finished, open_console, print_table, started
from deqzoo.data import ImageData
from deqzoo.implicit import Anderson
from deqzoo.models import DEQClassifierModule, build_network
from deqzoo.models.common.solves import backward_metrics
from deqzoo.nn import solver_layers, use_solver
from studies.training import fit, recipe

Options = dict[str, Any]  # settings of `deqzoo.models.equilibrium.config.DEQClassifierConfig`

BATCH = 64
SHORT = 4  # steps of the short solve at test time: 5 NFE


def implicit(linear_solver: str = "gmres", share_inverse: bool = False, **linear_options: float) -> Options:
    """The exact gradient, by a linear solver."""
    linear = {"linear_solver": linear_solver, "linear_solver_options": linear_options}
    return {"adjoint": "implicit", "adjoint_options": linear | {"share_inverse": share_inverse}}


SHIPPED = ("recipe", "deq_digits_unbounded as it is")
BROYDEN: Options = {"solver": "broyden"}
EXACT = {"tol": 1e-3, "max_steps": 30}  # of GMRES
OPTIONS: dict[tuple[str, str], Options] = {  # what is changed in the shipped recipe
    SHIPPED: {},
    ("training", "no Jacobian regularisation"): {"jacobian_penalty": 0.0},
    ("training", "fixed-point correction, 3 and 7 steps"): {"correction_steps": [3, 7]},
    ("training", "variational dropout, .1"): {"cell_options": {"dropout": 0.1}},
    ("training", "weight normalisation"): {"cell_options": {"weight_norm": True}},
    ("backward", "exact: GMRES, 30 products at most"): implicit(**EXACT),
    ("backward", "truncated: GMRES, 3 products"): implicit(max_steps=3),
    ("backward", "truncated: Neumann, 3 products"): implicit("neumann", k=3),
    ("backward", "one step"): {"adjoint": "one_step", "adjoint_options": {}},
    ("Broyden", "exact, nothing shared"): BROYDEN | implicit(**EXACT),
    ("Broyden", "exact, inverse shared"): BROYDEN | implicit(share_inverse=True, **EXACT),
    ("Broyden", "inverse shared, GMRES, 3 products"): BROYDEN | implicit(share_inverse=True, max_steps=3),
    ("Broyden", "inverse shared, no product (SHINE)"): BROYDEN | implicit("neumann", share_inverse=True, k=0),
}


@dataclasses.dataclass
class Row:
    """One option. Means over the seeds, but for `accuracies`; `nfe_train`, `nfe_backward`, `ratio` of the first one."""

    group: str
    option: str
    accuracies: list[float]  # of the test digits, a seed each
    short: float  # accuracy after 5 evaluations of Anderson
    nfe: float  # at test time
    residual: float  # median, at test time
    nfe_train: int
    nfe_backward: int  # products with a Jacobian; taped steps of a phantom gradient
    ratio: float = float("nan")  # time of a training step over the shipped recipe's

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracy over the seeds."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else float("nan")


def train(settings: Any, seed: int, epochs: int, steps: int) -> DEQClassifierModule:
    """The module, trained on digits; ``steps`` is -1, or a limit."""
    data = ImageData("digits", seed=seed, batch_size=BATCH)
    torch.manual_seed(seed)
    module = DEQClassifierModule.of(build_network(settings, data.info), settings)
    fit(module, data, epochs, steps)
    return module


@torch.no_grad()
def test(network: nn.Module) -> tuple[float, float, float]:
    """Accuracy on all test digits, largest NFE and median residual over the layers."""
    data = ImageData("digits")
    data.setup()
    ((images, labels),) = data.test_dataloader()
    right = network.eval()(images).argmax(1) == labels
    solutions = [layer.solution for layer in solver_layers(network)]
    residual = torch.stack([solution.residual for solution in solutions]).amax(0).median().item()
    return right.double().mean().item(), float(max(solution.nfe for solution in solutions)), residual


def training_step(module: Any, batch: tuple[Tensor, ...]) -> Callable[[], None]:
    """Loss, penalties and backward pass of a batch, as the module trains."""
    module.train()

    def call() -> None:
        module.zero_grad()
        loss = module.step(module.network, batch, "train").loss
        for factor, penalty in module.penalties().values():
            loss = loss + factor * penalty
        loss.backward()

    return call


def measure(
    name: tuple[str, str], options: Options, seeds: range, quick: bool, epochs: int
) -> tuple[Row, LightningModule]:
    """Train with every seed; the row, but for the time, and the network of the first seed."""
    settings = dataclasses.replace(recipe("deq_digits_unbounded")[0], **copy.deepcopy(options))
    modules = [train(settings, seed, epochs, 3 if quick else -1) for seed in seeds]
    tested = [test(module.trained_network) for module in modules]
    short = []
    for module in modules:
        with use_solver(module.trained_network, Anderson(tol=0.0, max_steps=SHORT)):
            short.append(test(module.trained_network)[0])
    accuracies, nfe, residual = zip(*tested, strict=True)
    nfe_train, nfe_backward = counts(modules[0], settings)
    means = [statistics.mean(values) for values in (short, nfe, residual)]
    return Row(*name, list(accuracies), *means, nfe_train, nfe_backward), modules[0]


def counts(module: DEQClassifierModule, settings: Any) -> tuple[int, int]:
    """NFE forward and backward of a training step, the largest over the layers."""
    training_step(module, first_batch())()
    layers = solver_layers(module.network)
    backward = {"phantom": settings.adjoint_options.get("steps", 5), "one_step": 1}.get(settings.adjoint)
    if backward is None:
        backward = int(backward_metrics(layers)["nfe_backward"])
    return max(layer.solution.nfe for layer in layers), backward


def first_batch() -> tuple[Tensor, Tensor]:
    """The digits, 64 of the validation part, that every step is timed on."""
    data = ImageData("digits", eval_batch_size=BATCH)
    data.setup()
    return next(iter(data.val_dataloader()))


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3, help="how many trainings each option gets")
    parser.add_argument("--epochs", type=int, default=8, help="of each training")
    options = started(__doc__, parser)
    seeds, rounds = (range(1), 1) if options.quick else (range(options.seeds), 21)
    console, found = open_console(), {}
    for name, changes in OPTIONS.items():
        found[name] = measure(name, changes, seeds, options.quick, options.epochs)
        console.print(f"{' '.join(name)}: {100 * statistics.mean(found[name][0].accuracies):.2f} %", style="dim")
    batch = first_batch()
    times = interleaved({name: training_step(module, batch) for name, (_, module) in found.items()}, rounds)
    rows = [row for row, _ in found.values()]
    for row in rows:
        row.ratio = median_ratio(times[row.group, row.option], times[SHIPPED])
    print_table(
        console,
        f"deq_digits_unbounded, {options.epochs} epochs, {len(seeds)} seed(s), 360 test digits",
        ["", "option"],
        ["accuracy %", "spread", f"at {SHORT + 1} NFE", "NFE test", "residual", "NFE train", "back", "time"],
        [
            (
                row.group, row.option, f"{100 * statistics.mean(row.accuracies):.2f}", f"{100 * row.spread:.2f}",
                f"{100 * row.short:.2f}", f"{row.nfe:.1f}", f"{row.residual:.1e}", f"{row.nfe_train}",
                f"{row.nfe_backward}", f"{row.ratio:.2f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    return finished(options, ["deqzoo", "lightning"], rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
