"""What the recipe deq_cifar_unbounded was chosen by: its cell, normalisation and solves in training, at equal steps.

Each choice changes one thing of the recipe; all see the same batches of CIFAR-10 from the same start. Tested is on
images of the validation part: with the recipe's solver, at the fixed point (tolerance 1e-4), after 4 NFE, and with each
cell applied once. A network that is better after few steps than at its fixed point has not learnt an equilibrium.
`--plot FILE` draws the loss over the steps, a curve each.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch import Trainer
from torch import Tensor, nn

from benchmarks.report import finished, open_console, print_table, started
from deqzoo.data import ImageData
from deqzoo.implicit import Anderson, Picard
from deqzoo.models import DEQClassifierModule, build_network
from deqzoo.models.common.kind import first_batches
from deqzoo.nn import solver_layers, use_solver
from deqzoo.plots.figure import panels, save
from studies.training import Losses, fit, recipe

FEW = 3  # steps of Anderson: 4 NFE


CHOICES: dict[tuple[str, str], dict[str, Any]] = {
    ("recipe", "as it is"): {},
    ("network", "two stages"): {"widths": [64, 192]},
    ("network", "residual cells of two convolutions"): {"cell": "residual"},
    ("network", "group normalisation outside the cells"): {"entry_norm": "group"},
    ("network", "flip-equivariant"): {"flip_equivariant": True},
    ("network", "3x3 convolutions between the stages"): {"entry_kernel": 3},
    ("solves", "4 NFE in training"): {"train_max_steps": FEW},
    ("solves", "4 NFE in training, penalty .1"): {"train_max_steps": FEW, "jacobian_penalty": 0.1},
    ("solves", "penalty .1"): {"jacobian_penalty": 0.1},
    ("solves", "penalty 5"): {"jacobian_penalty": 5.0},
    ("gradient", "one step"): {"adjoint": "one_step", "adjoint_options": {}},
    ("gradient", "phantom, 2 steps"): {"adjoint": "phantom", "adjoint_options": {"steps": 2}},
    ("optimiser", "SGD, .1"): {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4},
}


@dataclasses.dataclass
class Row:
    """A choice; accuracies on the validation images."""

    group: str
    choice: str
    parameters: int
    accuracy: float  # with the recipe's solver
    fixed_point: float  # at tolerance 1e-4
    few: float  # after 4 NFE
    once: float  # with each cell applied once
    nfe: int  # of the recipe's solver, the largest over the layers
    residual: float  # of the recipe's solver after 12 NFE at most, median
    nfe_train: float  # mean over the steps
    seconds: float  # CPU time of a training step
    losses: list[float]


class Recorder(Losses):
    """Keeps the NFE of each training step, too, the largest over the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.nfe: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *rest: Any) -> None:
        """After each step."""
        super().on_train_batch_end(trainer, module, *rest)
        self.nfe.append(max(layer.solution.nfe for layer in solver_layers(module.network)))


def measure(name: tuple[str, str], changes: dict[str, Any], options: argparse.Namespace) -> Row:
    """Train and test one choice."""
    settings, data, trainer = recipe("deq_cifar_unbounded")
    settings = dataclasses.replace(settings, **copy.deepcopy(changes), ema_decay=0.0, baseline=None)
    images = ImageData("cifar10", batch_size=data.batch_size, augment=data.augment, root=options.root)
    if options.quick:
        settings, images = dataclasses.replace(settings, widths=[8, 8], stem=8), ImageData("digits", batch_size=64)
    torch.manual_seed(0)
    module = DEQClassifierModule.of(build_network(settings, images.info), settings)
    recorder = Recorder()
    started_at = time.process_time()
    steps = 3 if options.quick else options.steps
    fit(module, images, epochs=1000, steps=steps, clip=trainer.gradient_clip_val, callbacks=[recorder])
    seconds = (time.process_time() - started_at) / steps
    held_out = first_batches(images.val_dataloader(), 100 if options.quick else options.images)
    network = module.trained_network.eval()
    accuracy, nfe, residual = test(network, held_out)
    accuracies = []
    for solver in (Anderson(tol=1e-4, max_steps=60), Anderson(tol=0.0, max_steps=FEW), Picard(tol=0.0, max_steps=1)):
        with use_solver(network, solver):
            accuracies.append(test(network, held_out)[0])
    parameters = sum(p.numel() for p in network.parameters())
    mean_nfe = sum(recorder.nfe) / len(recorder.nfe)
    return Row(*name, parameters, accuracy, *accuracies, nfe, residual, mean_nfe, seconds, recorder.values)


@torch.no_grad()
def test(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, int, float]:
    """Accuracy, largest NFE and median residual over the layers."""
    right, residuals, nfe = [], [], 0
    for images, labels in batches:
        right.append(network(images).argmax(1) == labels)
        solutions = [layer.solution for layer in solver_layers(network)]
        residuals.append(torch.stack([solution.residual for solution in solutions]).amax(0))
        nfe = max(nfe, *(solution.nfe for solution in solutions))
    return torch.cat(right).double().mean().item(), nfe, torch.cat(residuals).median().item()


def plot(rows: list[Row], path: Path) -> None:
    """Training loss over the steps, a curve a choice, each point the mean of twenty steps."""
    figure, (axes,) = panels(1, "Choices of deq_cifar_unbounded")
    for row in rows:
        whole = torch.tensor(row.losses)
        means = whole[: len(whole) // 20 * 20].view(-1, 20).mean(1)
        axes.plot(range(20, 20 * len(means) + 1, 20), means, label=f"{row.group}: {row.choice}")
    axes.set(xlabel="training step", ylabel="loss with its penalty")
    axes.legend(frameon=False, fontsize=6)
    save(figure, path)


def main() -> int:
    """Run, print, and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", help="where cifar-10-batches-bin lies (default: as data.root)")
    parser.add_argument("--steps", type=int, default=700, help="of each training")
    parser.add_argument("--images", type=int, default=2000, help="of the validation part, to test on")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the losses")
    options = started(__doc__, parser)
    console, rows = open_console(), []
    for name, changes in CHOICES.items():
        rows.append(measure(name, changes, options))
        console.print(f"{' '.join(name)}: {100 * rows[-1].accuracy:.1f} %", style="dim")
    print_table(
        console,
        f"deq_cifar_unbounded after {options.steps} steps of 128, accuracy on {options.images:,} validation images",
        ["", "choice"],
        ["parameters", "accuracy %", "fixed point", "4 NFE", "once", "NFE", "residual", "NFE train", "s per step"],
        [
            (
                row.group, row.choice, f"{row.parameters:,}", f"{100 * row.accuracy:.1f}",
                f"{100 * row.fixed_point:.1f}", f"{100 * row.few:.1f}", f"{100 * row.once:.1f}", f"{row.nfe}",
                f"{row.residual:.1e}", f"{row.nfe_train:.1f}", f"{row.seconds:.2f}",
            )
            for row in rows
        ],
    )  # fmt: skip
    if options.plot:
        plot(rows, options.plot)
    return finished(options, ["deqzoo", "lightning"], rows=rows)


if __name__ == "__main__":
    raise SystemExit(main())
