"""Accuracy, NFE and residual over the steps of a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deqzoo.plots.figure import COLORS, save
from deqzoo.plots.figure import panels as make_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, float]]

MANY = 30  # points of a curve, from which on they have no marks
MEANS = 15  # a running mean is over this fraction of the points

Curves = Mapping[str, str]  # column of metrics.csv -> its name in the legend

NFE: Curves = {"train/nfe": "forward", "train/nfe_backward": "backward"}
RESIDUAL: Curves = {"train/residual": "forward", "train/residual_backward": "backward"}
STEPS: Curves = {"train/steps": "accepted", "train/rejected": "rejected"}
ACCURACY: Curves = {"train/accuracy": "training", "val/accuracy": "validation"}
PANELS: Mapping[str, Curves] = {  # of a network of DEQ layers
    "accuracy": ACCURACY,
    "NFE per step, largest over the layers": NFE,
    "median relative residual": RESIDUAL,
}

ODE_PANELS: Mapping[str, Curves] = {  # of a network of ODE layers
    "accuracy": ACCURACY,
    "NFE per step, largest over the layers": NFE,
    "steps of the solver": STEPS,
}

SERIES_PANELS: Mapping[str, Curves] = {  # of a model of series
    "loss (nats per value)": {"train/loss": "training", "val/loss": "validation"},
    "validation RMSE": {"val/rmse": "inside the window", "val/rmse_beyond": "beyond"},
    "NFE per step": NFE,
}

STAY_PANELS: Mapping[str, Curves] = {  # of a model of stays in intensive care
    "AUC of death in hospital": {"val/auc": "validation"},
    "loss": {"train/loss": "training", "val/loss": "validation"},
    "interpolation MSE": {"train/interpolation_mse": "training", "val/interpolation_mse": "validation"},
}

INNER_SHARES: Curves = {"train/inner_unconverged": "above tolerance", "train/bad_curvature": "bad curvature"}
INNER_RESIDUALS: Curves = {"train/stationarity": "inner problem", "train/meta_residual": "meta-gradient"}
IMPLICIT: Mapping[str, Curves] = {"share of the tasks": INNER_SHARES, "relative residual": INNER_RESIDUALS}
MSE: Curves = {"train/mse": "training", "val/mse": "validation"}
META_PANELS: Mapping[str, Curves] = {"query error (MSE)": MSE, **IMPLICIT}  # of a regression after adaptation
FEW_SHOT_PANELS: Mapping[str, Curves] = {"query accuracy": ACCURACY, **IMPLICIT}  # of a few-shot classifier
CLEANING_PANELS: Mapping[str, Curves] = {  # of a search for wrong labels
    "accuracy on the clean set": {"train/accuracy": "of each fit"},
    "gradients of the inner solve": {"train/nfe": "a step"},
    "relative residual": INNER_RESIDUALS,
}
SEARCH_PANELS: Mapping[str, Curves] = {  # of a search for a cell
    "cross-entropy": {"train/loss": "of the mixed cell, on the validation set"},
    "largest weight of a mixture": {"train/decided": "mean over the places"},
    "gradients of the inner solve": {"train/nfe": "a step"},
    "relative residual": INNER_RESIDUALS,
}
DECAY_PANELS: Mapping[str, Curves] = {  # of learned decays
    "cross-entropy": {"train/loss": "of each fit, on the validation set"},
    "standard deviation of log decays": {"train/spread": "over the weights"},
    "gradients of the inner solve": {"train/nfe": "a step"},
    "relative residual": INNER_RESIDUALS,
}

PUZZLE_PANELS: Mapping[str, Curves] = {  # of an equilibrium that solves puzzles
    "share of whole puzzles solved": {"train/puzzles_solved": "training", "val/puzzles_solved": "validation"},
    "share of cells wrong": {"train/cells_wrong": "training", "val/cells_wrong": "validation"},
    "NFE of a solve": {"val/nfe": "validation, the longest"},
}

RESTORED_PANELS: Mapping[str, Curves] = {  # of a network that restores images
    "PSNR (dB)": {"train/psnr": "training", "val/psnr": "validation"},
    "mean squared error": {"train/loss": "training", "val/loss": "validation"},
    "NFE of a solve": {"train/nfe": "training", "val/nfe": "validation, the longest"},
}

SUDOKU_PANELS: Mapping[str, Curves] = {  # of a solver of puzzles
    "share of whole puzzles wrong": {"train/puzzles_wrong": "training", "val/puzzles_wrong": "validation"},
    "share of cells wrong": {"train/cells_wrong": "training", "val/cells_wrong": "validation"},
    "iterations of a program's solver, mean": {"train/iterations": "training", "val/iterations": "validation"},
}

LANGUAGE_PANELS: Mapping[str, Curves] = {  # of a language model
    "bits per character": {"train/bits_per_char": "training", "val/bits_per_char": "validation"},
    "NFE per step": NFE,
    "median relative residual": RESIDUAL,
}


FLOW_PANELS: Mapping[str, Curves] = {  # of a continuous flow in the plane
    "training loss": {"train/loss": "training"},
    "KL from the true density (nats)": {"val/kl_density": "validation"},
    "NFE per solve": {**NFE, "val/nfe": "validation"},
}

IMAGE_FLOW_PANELS: Mapping[str, Curves] = {  # of a continuous flow of images
    "bits/dim": {"train/bits_per_dim": "training", "val/bits_per_dim": "validation"},
    "NFE per solve, largest over the layers": {**NFE, "val/nfe": "validation"},
    "steps of the solver": STEPS,
    "training loss": {"train/loss": "training"},  # of flow matching, or with the penalties
}


def plot_training(rows: Rows, path: Path, panels: Mapping[str, Curves] = PANELS) -> Path:
    """Draw the rows of a run's ``metrics.csv`` (`deqzoo.training.history.read_history`), a panel for each label.

    Panels of which the run has nothing are left out: flow matching solves nothing in training, for example.
    """
    logged = {name for row in rows for name in row}
    panels = {label: curves for label, curves in panels.items() if logged & set(curves)} or panels
    figure, axes = make_panels(len(panels), "Training")
    for axis, (label, curves) in zip(axes, panels.items(), strict=True):
        draw_lines(axis, rows, curves, label)
        if curves in (NFE, STEPS):
            axis.set_ylim(bottom=0)
        if curves in (RESIDUAL, INNER_RESIDUALS) and any(row.get(name, 0) > 0 for row in rows for name in curves):
            axis.set_yscale("log")
    return save(figure, path)


def draw_lines(axis: "Axes", rows: Rows, names: Curves, label: str) -> None:
    """Draw columns of ``rows`` over their ``step``, each with its name in the legend; ``label`` is the ordinate's.

    Numbers of single batches (those that are no validation's) are drawn faintly where there are many, and their running
    mean over them.
    """
    for color, (name, legend) in zip(COLORS, names.items(), strict=False):
        steps = [row["step"] for row in rows if name in row]
        values = [row[name] for row in rows if name in row]
        if not steps:
            continue
        if len(steps) < MANY or name.startswith("val/"):
            axis.plot(steps, values, label=legend, color=color, marker="o" if len(steps) < MANY else "")
        else:
            count = len(steps) // MEANS
            axis.plot(steps, values, label=f"{legend}, single batches", color=color, alpha=0.25, linewidth=0.8)
            axis.plot(steps, running_mean(values, count), label=f"{legend}, mean of {count}", color=color)
        axis.legend(frameon=False)
    axis.set(xlabel="step", ylabel=label)


def running_mean(values: Sequence[float], count: int) -> list[float]:
    """The mean of each value and the ``count`` - 1 before it, or as many as there are.

    >>> running_mean([1.0, 3.0, 5.0, 1.0], 2)
    [1.0, 2.0, 4.0, 3.0]
    """
    windows = (values[max(0, end - count) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def plot_trust(trust: Tensor, wrong: Tensor, path: Path) -> Path:
    """Draw the distribution of the weights (N,) in [0, 1] of examples with right and with ``wrong`` (N,) labels."""
    figure, (axis,) = make_panels(1, "Weights of the training examples")
    edges = torch.linspace(0, 1, 31).tolist()
    for name, chosen, color in (("right label", ~wrong, COLORS[0]), ("wrong label", wrong, COLORS[1])):
        axis.hist(trust[chosen].tolist(), bins=edges, label=name, color=color, alpha=0.6)
    axis.set(xlabel="weight", ylabel="examples")
    axis.legend(frameon=False)
    return save(figure, path)
