"""What adaptation makes of a network, task by task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save


def plot_adaptation(
    grid: Tensor,
    curves: Mapping[str, Tensor],
    support: tuple[Tensor, Tensor],
    queries: tuple[Tensor, Tensor],
    path: Path,
) -> Path:
    """Draw regression tasks, a panel each: what the network predicts before and after, what it was given and asked.

    Args:
        grid: inputs (tasks, points, 1).
        curves: ``before`` and ``after``, predictions (tasks, points, 1) there.
        support, queries: inputs and targets (tasks, n, 1) of the points given, and of those asked for.
        path: of the PNG.
    """
    figure, axes = panels(len(grid), "Test tasks before and after adaptation")
    styles: dict[str, Any] = {"before": {"color": "0.6", "linestyle": "--"}, "after": {"color": COLORS[0]}}
    for task, axis in enumerate(axes):
        for name, values in curves.items():
            axis.plot(grid[task, :, 0], values[task, :, 0], label=f"{name} adaptation", **styles[name])
        axis.plot(queries[0][task, :, 0], queries[1][task, :, 0], "x", color=COLORS[2], markersize=4, label="asked")
        axis.plot(support[0][task, :, 0], support[1][task, :, 0], "o", color=COLORS[1], markersize=4, label="given")
        axis.set(xlabel="x", ylabel="y")
    axes[0].legend(frameon=False, fontsize="small")
    return save(figure, path)
