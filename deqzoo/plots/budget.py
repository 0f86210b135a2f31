"""What a budget of function evaluations buys: accuracy and residual of trained equilibrium layers, for each solver."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import make_solver
from deqzoo.nn import use_solver
from deqzoo.nn.deq import recorded_residuals
from deqzoo.plots.figure import COLORS, panels, save

STEPS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True)
class Budget:
    """What a solver reached.

    Attributes:
        nfe: evaluations, the largest over the layers, one entry per budget.
        accuracy: of the labels.
        residual: ||f(z) - z|| / ||f(z)|| of the layers' outputs, the median over samples and layers.
    """

    nfe: list[int]
    accuracy: list[float]
    residual: list[float]


@torch.no_grad()
def budget_curves(
    network: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    names: Sequence[str],
    steps: Sequence[int] | None = None,
) -> dict[str, Budget]:
    """Run ``network``, of DEQ layers ``network.equilibria``, on labelled images, each solver with each of ``steps``."""
    curves = {}
    for name in names:
        found = Budget([], [], [])
        for count in STEPS if steps is None else steps:
            with use_solver(network, make_solver(name, tol=0.0, max_steps=count)):
                accuracy, residual = _measure(network, batches)
            found.nfe.append(max(layer.solution.nfe for layer in network.equilibria))  # type: ignore[union-attr]
            found.accuracy.append(accuracy)
            found.residual.append(residual)
        curves[name] = found
    return curves


def plot_budget(curves: Mapping[str, Budget], path: Path) -> Path:
    """Draw `budget_curves`: accuracy, and the residual, over the NFE."""
    figure, axes = panels(2, "What a number of function evaluations buys, on test images")
    for color, (name, found) in zip(COLORS, curves.items(), strict=False):
        style: dict[str, Any] = {"label": name, "color": color, "marker": "o", "markersize": 3}
        axes[0].plot(found.nfe, [100 * value for value in found.accuracy], **style)
        axes[1].plot(found.nfe, found.residual, **style)
    axes[0].set(xlabel="NFE", ylabel="accuracy (%)")
    axes[1].set(xlabel="NFE", ylabel="median relative residual |f(z) - z| / |f(z)|", yscale="log")
    axes[0].legend(frameon=False)
    return save(figure, path)


def _measure(network: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    with recorded_residuals(network.equilibria) as residuals:  # type: ignore[arg-type]
        right = [network(images).argmax(1) == labels for images, labels in batches]
    return torch.cat(right).double().mean().item(), torch.cat(residuals).median().item()


def plot_over_nfe(curves: Mapping[str, Sequence[tuple[int, float]]], label: str, path: Path) -> Path:
    """Draw points (NFE, number), a line per solver; ``label`` names the number."""
    figure, (axis,) = panels(1, f"{label[:1].upper()}{label[1:]} over evaluations of the cell")
    for color, (name, points) in zip(COLORS, curves.items(), strict=False):
        axis.plot(*zip(*points, strict=True), label=name, color=color, marker="o", markersize=3)
    axis.set(xlabel="NFE of a solve", ylabel=label)
    axis.legend(frameon=False)
    return save(figure, path)


def plot_over_parameters(curves: Mapping[str, Sequence[tuple[int, float]]], label: str, path: Path) -> Path:
    """Draw points (parameters, number), a line per model; ``label`` names the number."""
    figure, (axis,) = panels(1, f"{label[:1].upper()}{label[1:]} over parameters")
    for color, (name, points) in zip(COLORS, curves.items(), strict=False):
        axis.plot(*zip(*points, strict=True), label=name, color=color, marker="o", markersize=3)
    axis.set(xlabel="parameters of a network", ylabel=label)
    axis.legend(frameon=False)
    return save(figure, path)


def plot_over_hops(curves: Mapping[str, Tensor], path: Path) -> Path:
    """Draw the accuracy of nodes over their hops from the node that tells their class; a line per network."""
    figure, (axis,) = panels(1, "How far the class is known")
    for color, (name, accuracy) in zip(COLORS, curves.items(), strict=False):
        known = accuracy.isfinite()
        axis.plot(known.nonzero().flatten(), 100 * accuracy[known], label=name, color=color, linewidth=1)
    axis.set(xlabel="hops from the node that tells the class", ylabel="accuracy (%)", ylim=(0, 105))
    axis.legend(frameon=False)
    return save(figure, path)
