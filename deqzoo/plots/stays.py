"""Stays in intensive care: what was measured, and the paths that a model finds likely."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from deqzoo.plots.figure import COLORS, save
from deqzoo.plots.series import BAND, quantile


def plot_stays(hours: Tensor, seen: Tensor, draws: Tensor, names: Sequence[str], path: Path) -> Path:
    """Draw some channels of stays, a row for each stay: the measurements, and the middle 90 % of the paths drawn.

    Args:
        hours: (T,).
        seen: (B, T, C), NaN where nothing was measured.
        draws: (S, B, T, C), paths from the posterior.
        names: of the C channels.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    stays, channels = seen.shape[0], seen.shape[2]
    figure = Figure(figsize=(3.1 * channels, 0.9 + 2.3 * stays), layout="constrained")
    figure.suptitle("Test stays: what was measured each hour, and the model's paths through it")
    axes = figure.subplots(stays, channels, squeeze=False, sharex=True)
    for stay in range(stays):
        for channel in range(channels):
            axis, values = axes[stay, channel], draws[:, stay, :, channel]
            low, high = (quantile(values, q) for q in BAND)
            axis.fill_between(hours, low, high, color=COLORS[0], alpha=0.25, lw=0, label="middle 90 %")
            axis.plot(hours, quantile(values, 0.5), color=COLORS[0], linewidth=1, label="median")
            axis.plot(hours, seen[stay, :, channel], ".", color=COLORS[1], markersize=4, label="measured")
            axis.grid(True, alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            if not stay:
                axis.set_title(names[channel], fontsize="medium")
            if not seen[stay, :, channel].isfinite().any():
                axis.text(0.5, 0.9, "never measured", transform=axis.transAxes, ha="center", color="0.4")
        axes[stay, 0].set_ylabel(f"stay {stay + 1}")
    for axis in axes[-1]:
        axis.set_xlabel("hours since admission")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return save(figure, path)
