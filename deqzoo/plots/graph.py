"""What networks make of a graph: how far along its edges something is known."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save


def plot_over_hops(curves: Mapping[str, Tensor], path: Path) -> Path:
    """Draw the accuracy of nodes over their hops from the node that tells their class; a line a network."""
    figure, (axis,) = panels(1, "How far the class is known")
    for color, (name, accuracy) in zip(COLORS, curves.items(), strict=False):
        known = accuracy.isfinite()
        axis.plot(known.nonzero().flatten(), 100 * accuracy[known], label=name, color=color, linewidth=1)
    axis.set(xlabel="hops from the node that tells the class", ylabel="accuracy (%)", ylim=(0, 105))
    axis.legend(frameon=False)
    return save(figure, path)
