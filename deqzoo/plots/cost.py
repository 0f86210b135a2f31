"""A number of a trained network over the evaluations that its solves may cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deqzoo.plots.figure import COLORS, panels, save


def plot_over_nfe(curves: Mapping[str, Sequence[tuple[int, float]]], label: str, path: Path) -> Path:
    """Draw points (NFE, number), a line a solver; ``label`` names the number."""
    figure, (axis,) = panels(1, f"{label.capitalize()} over evaluations of the cell")
    for color, (name, points) in zip(COLORS, curves.items(), strict=False):
        axis.plot(*zip(*points, strict=True), label=name, color=color, marker="o", markersize=3)
    axis.set(xlabel="NFE of a solve", ylabel=label)
    axis.legend(frameon=False)
    return save(figure, path)
