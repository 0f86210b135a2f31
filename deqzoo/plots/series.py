"""Series and what a model makes of them: over time with uncertainty bands, in the plane, and parameters over steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save, save_animation
from deqzoo.plots.training import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes


CHANNELS = 3  # of a series, in a figure
BAND = (0.05, 0.95)  # quantiles


def plot_series(times: Tensor, shown: Tensor, draws: Tensor, truth: Tensor, window: float, path: Path) -> Path:
    """Draw series over time, a panel each: what was shown, the truth, and the middle 90 % of the paths drawn.

    Args:
        times: (T,).
        shown: (B, T, C), NaN where nothing was; three channels are drawn.
        draws: (S, B, T, C), paths from the posterior.
        truth: (B, T, C), NaN where it is not known.
        window: the time at which the window ends.
        path: of the PNG.
    """
    figure, axes = panels(len(shown), "Test series: median and middle 90 % of the posterior's paths")
    for index, axis in enumerate(axes):
        _series(axis, times, shown[index], draws[:, index], truth[index], window)
    axes[0].legend(frameon=False, fontsize="small")
    figure.legend(handles=_meanings(), loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    return save(figure, path)


def animate_series(
    times: Tensor, frames: Sequence[tuple[Tensor, Tensor]], truth: Tensor, window: float, path: Path
) -> Path:
    """A GIF of `plot_series`: the bands as more and more is shown; ``frames`` are pairs of shown and draws."""
    count = min(2, len(truth))
    figure, axes = panels(count, "The posterior's paths, as more is shown")
    edges = torch.stack([quantile(frames[-1][1], q) for q in BAND])[:, :count, :, :CHANNELS]
    low, high = edges.min().item(), edges.max().item()
    margin = 0.25 * (high - low)

    def draw(frame: int) -> None:
        shown, draws = frames[frame]
        for index, axis in enumerate(axes):
            axis.clear()
            axis.grid(True, alpha=0.3)
            _series(axis, times, shown[index], draws[:, index], truth[index], window)
            axis.set_ylim(low - margin, high + margin)
        axes[0].legend(frameon=False, fontsize="small", loc="upper left")

    figure.legend(handles=_meanings(), loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    return save_animation(figure, draw, len(frames), path, fps=6)


def plot_plane(shown: Tensor, draws: Tensor, truth: Tensor, path: Path) -> Path:
    """Draw series of two channels in the plane, a panel each; arguments as `plot_series` has them."""
    figure, axes = panels(len(shown), "Test series in the plane, and paths from the posterior")
    for index, axis in enumerate(axes):
        for number, way in enumerate(draws[:20, index].unbind(0)):
            name = None if number else "paths"
            axis.plot(way[:, 0], way[:, 1], color=COLORS[0], alpha=0.15, linewidth=0.8, label=name)
        axis.plot(truth[index, :, 0], truth[index, :, 1], color="0.2", linestyle="--", linewidth=1, label="truth")
        axis.plot(shown[index, :, 0], shown[index, :, 1], ".", color=COLORS[1], markersize=3, label="shown")
        axis.set(xlabel=r"$x_1$", ylabel=r"$x_2$")
    legend = axes[0].legend(frameon=False)
    for line in legend.get_lines():
        line.set_alpha(1)
    return save(figure, path)


def plot_fit(times: Tensor, angles: Mapping[str, Tensor], window: float, path: Path, count: int = 3) -> Path:
    """Draw the angles of some pendulums over time, a panel each; ``angles`` are truth, measured and solved, (n, T)."""
    figure, axes = panels(count, "Fit against truth")
    styles: dict[str, Any] = {
        "measured": {"marker": ".", "linestyle": ""},
        "truth": {"linewidth": 2.5},
        "solved": {"linestyle": "--"},
    }
    colors = {"measured": COLORS[0], "truth": "0.7", "solved": "black"}
    for index, axis in enumerate(axes):
        for name, values in angles.items():
            axis.plot(times, values[index], label=name, color=colors[name], markersize=3, **styles[name])
        axis.axvline(window, color="0.4", linestyle=":", linewidth=1, label="end of the measurements")
        axis.set(xlabel="time (s)", ylabel="angle (rad)")
    axes[0].legend(frameon=False, fontsize="small")
    return save(figure, path)


def plot_parameters(rows: Rows, truth: Mapping[str, float], path: Path) -> Path:
    """Draw how the parameters found their values in training: a panel each, from the rows of a ``metrics.csv``."""
    figure, axes = panels(len(truth), "Learned parameters")
    for axis, (name, value) in zip(axes, truth.items(), strict=True):
        points = [(row["step"], row[f"train/{name}"]) for row in rows if f"train/{name}" in row]
        if points:
            axis.plot(*zip(*points, strict=True), color=COLORS[0], label="learned")
        axis.axhline(value, color="0.4", linestyle="--", linewidth=1, label=f"truth, {value:g}")
        axis.set(xlabel="step", ylabel=name.replace("_", " "))
        axis.legend(frameon=False)
    return save(figure, path)


def quantile(draws: Tensor, q: float) -> Tensor:
    """Quantile over the first axis."""
    return torch.quantile(draws, q, dim=0)


def _meanings() -> list[Any]:
    """For a legend: what `_series` draws for each channel, in its colour."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D([], [], color="0.3", linestyle="", marker=".", markersize=4, label="shown"),
        Line2D([], [], color="0.3", linewidth=1, label="median"),
        Patch(color="0.3", alpha=0.2, linewidth=0, label="middle 90 %"),
        Line2D([], [], color="0.3", linestyle="--", linewidth=0.8, label="truth"),
        Line2D([], [], color="0.4", linestyle=":", linewidth=1, label="end of the window"),
    ]


def _series(axis: "Axes", times: Tensor, shown: Tensor, draws: Tensor, truth: Tensor, window: float) -> None:
    for channel in range(min(CHANNELS, shown.shape[1])):
        color, values = COLORS[channel], draws[..., channel]
        axis.fill_between(times, quantile(values, BAND[0]), quantile(values, BAND[1]), color=color, alpha=0.2, lw=0)
        axis.plot(times, quantile(values, 0.5), color=color, linewidth=1, label=f"channel {channel + 1}")
        axis.plot(times, truth[:, channel], color=color, linestyle="--", linewidth=0.8, alpha=0.7)
        axis.plot(times, shown[:, channel], ".", color=color, markersize=4)
    axis.axvline(window, color="0.4", linestyle=":", linewidth=1)
    axis.set(xlabel="time", ylabel="value")


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


def plot_paths(
    times: Tensor,
    fine: Tensor,
    values: Tensor,
    shown: Mapping[float, Tensor],
    curves: Mapping[float, Tensor],
    path: Path,
) -> Path:
    """Draw interpolations of series of which more and more is dropped: a panel for each fraction, of the first series.

    Args:
        times: (T,), fine: (S,).
        values: (B, T, C), NaN where nothing was measured; three channels are drawn.
        shown: of each fraction, (B, T, C), NaN where nothing is shown.
        curves: of each fraction, (B, S, C) at the times ``fine``.
        path: of the PNG.
    """
    figure, axes = panels(len(curves), "A test series, and the path through what is shown of it")
    seen = values[0].isfinite().any(1).nonzero()
    begin, end = times[seen[0, 0]].item(), times[seen[-1, 0]].item()
    inside = (fine >= begin) & (fine <= end)
    for axis, (fraction, curve) in zip(axes, curves.items(), strict=True):
        for channel in range(min(CHANNELS, values.shape[2])):
            color, left = COLORS[channel], shown[fraction][0, :, channel]
            hidden = values[0, :, channel].where(left.isnan(), torch.nan)
            axis.plot(fine[inside], curve[0, inside, channel], color=color, linewidth=1)
            axis.plot(times, left, ".", color=color, markersize=6, label=f"channel {channel + 1}")
            axis.plot(times, hidden, "o", color=color, markersize=4, fillstyle="none", alpha=0.5)
        axis.set(xlabel="time (tens of frames)", ylabel="value / standard deviation")
        axis.set_title(f"{100 * fraction:.0f} % dropped", fontsize="medium")
    axes[0].plot([], [], "o", color="0.4", markersize=4, fillstyle="none", label="dropped here")
    axes[0].legend(frameon=False, fontsize="small")
    return save(figure, path)


def plot_over_dropping(curves: Mapping[str, Mapping[float, float]], path: Path) -> Path:
    """Draw accuracies over the fraction of values that is dropped, a curve for each name."""
    figure, (axis,) = panels(1, "Accuracy as values are dropped")
    for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
        axis.plot(
            [100 * part for part in curve], [100 * value for value in curve.values()], ".-", color=color, label=name
        )
    axis.set(xlabel="values dropped (%)", ylabel="test accuracy (%)")
    axis.legend(frameon=False)
    return save(figure, path)
