"""Accuracy, NFE and residual over the steps of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deqzoo.plots.figure import COLORS, panels, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, float]]

_TRAINING = {"train/accuracy": "training", "val/accuracy": "validation"}
_NFE = {"train/nfe": "forward", "train/nfe_backward": "backward"}
_RESIDUAL = {"train/residual": "forward", "train/residual_backward": "backward"}


def plot_training(rows: Rows, path: Path) -> Path:
    """Draw the rows of a run's ``metrics.csv`` (`deqzoo.training.history.read_history`)."""
    figure, (accuracy, nfe, residual) = panels(3, "Training")
    _lines(accuracy, rows, _TRAINING, "accuracy")
    _lines(nfe, rows, _NFE, "NFE a step, largest over the layers")
    _lines(residual, rows, _RESIDUAL, "median relative residual")
    nfe.set_ylim(bottom=0)
    if any(row.get(name, 0) > 0 for row in rows for name in _RESIDUAL):
        residual.set_yscale("log")
    return save(figure, path)


def _lines(axis: "Axes", rows: Rows, names: Mapping[str, str], label: str) -> None:
    for color, (name, legend) in zip(COLORS, names.items(), strict=False):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if points:
            axis.plot(*zip(*points, strict=True), label=legend, color=color, marker="o" if len(points) < 30 else "")
            axis.legend(frameon=False)
    axis.set(xlabel="step", ylabel=label)
