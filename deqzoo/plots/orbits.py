"""Learned motion over many periods: the error of its energy, and its orbits."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save


def plot_energy(curves: Mapping[str, Tensor], path: Path) -> Path:
    """Draw the errors of the true energy, (periods, starts), over the periods: the largest and the median so far.

    Args:
        curves: by the names of the networks.
        path: of the PNG.
    """
    figure, (axis,) = panels(1, "Error of the true energy")
    for color, (name, errors) in zip(COLORS, curves.items(), strict=False):
        so_far = errors.cummax(0).values
        periods = torch.arange(1, len(so_far) + 1)
        axis.plot(periods, so_far.amax(1), color=color, label=f"{name}: the worst start")
        axis.plot(periods, so_far.median(1).values, color=color, linestyle="--", label=f"{name}: the median")
    axis.set(xlabel="periods", ylabel="largest |H - H(0)| / |H(0)| so far", xscale="log", yscale="log")
    axis.legend(frameon=False, fontsize="small")
    return save(figure, path)


def plot_orbits(truth: Tensor, paths: Mapping[str, Tensor], periods: int, names: tuple[str, str], path: Path) -> Path:
    """Draw the first two components of states in the plane, a panel for each network, over the true orbits.

    Args:
        truth: (starts, T, 2 d), a period of the true orbits.
        paths: (starts, T, 2 d), the states in the last of all periods, by the networks' names.
        periods: how many there were.
        names: of the two components.
        path: of the PNG.
    """
    figure, axes = panels(len(paths), f"Orbits after {periods:,} periods, over the true ones")
    for axis, (name, states) in zip(axes, paths.items(), strict=True):
        for color, true, found in zip(COLORS, truth, states, strict=False):
            axis.plot(true[:, 0], true[:, 1], color="0.75", linewidth=3)
            axis.plot(found[:, 0], found[:, 1], ".", color=color, markersize=2)
        axis.set(title=name, xlabel=names[0], ylabel=names[1])
    return save(figure, path)
