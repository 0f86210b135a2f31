"""Points that flow through an ODE: stills, animations, phase portraits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deqzoo.plots.figure import COLORS, panels, save, save_animation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STILLS = 4  # moments in a still
ARROWS = 24  # of the vector field, along each axis


def plot_flow(times: Tensor, states: Tensor, labels: Tensor, classes: Sequence[str], path: Path) -> Path:
    """Draw labelled points at a few moments of their way through an ODE, and the ways of some of them.

    Args:
        times: (T,).
        states: (T, N, D), of which the first two dimensions are drawn.
        labels: (N,), which index ``classes``.
        classes: names for the legend.
        path: of the PNG.
    """
    figure, axes = panels(STILLS + 1, "Points on their way through the ODE")
    for axis, index in zip(axes, torch.linspace(0, len(times) - 1, STILLS).round().long().tolist(), strict=False):
        _scatter(axis, states[index], labels, classes)
        axis.set(title=f"t = {float(times[index]):.2f}", **_frame(states[index]))
    for label in range(len(classes)):
        for way in states[:, labels == label][:, :30].unbind(1):
            axes[-1].plot(way[:, 0], way[:, 1], color=COLORS[label], linewidth=0.7, alpha=0.6)
    axes[-1].set(title="ways of 30 points of each class", **_frame(states))
    for axis in axes:
        axis.set(xlabel=r"$y_1$", ylabel=r"$y_2$")
    axes[0].legend(frameon=False, markerscale=3)
    return save(figure, path)


def animate_flow(times: Tensor, states: Tensor, labels: Tensor, classes: Sequence[str], path: Path) -> Path:
    """The moving picture of `plot_flow`, as a GIF."""
    figure, (axis,) = panels(1, "Points on their way through the ODE")
    axis.set(xlabel=r"$y_1$", ylabel=r"$y_2$", **_frame(states))
    dots = _scatter(axis, states[0], labels, classes)
    axis.legend(frameon=False, markerscale=3, loc="upper right")

    def draw(frame: int) -> None:
        for label, dot in enumerate(dots):
            dot.set_offsets(states[frame][labels == label][:, :2].numpy())
        axis.set_title(f"t = {float(times[frame]):.2f}")

    return save_animation(figure, draw, len(times), path)


def plot_phase_portrait(
    field: Callable[[Tensor], Tensor],
    ways: Tensor,
    path: Path,
    *,
    groups: Sequence[str] | None = None,
    names: tuple[str, str] = (r"$y_1$", r"$y_2$"),
) -> Path:
    """Draw a vector field in the plane, and solutions that follow it.

    Args:
        field: (N, 2) -> (N, 2), of float32 CPU tensors; of a field that depends on time: at one moment.
        ways: solutions, (T, N, 2).
        path: of the PNG.
        groups: the name of each solution's group, which gets a colour; None: all are alike.
        names: of the axes.
    """
    figure, (axis,) = panels(1, "Phase portrait")
    frame = _frame(ways)
    across, up = (torch.linspace(*frame[limits], ARROWS) for limits in ("xlim", "ylim"))
    grid = torch.cartesian_prod(across, up)
    arrows = field(grid).detach().view(ARROWS, ARROWS, 2)
    speed = arrows.norm(dim=2).T.numpy()
    axis.streamplot(
        across.numpy(), up.numpy(), arrows[..., 0].T.numpy(), arrows[..., 1].T.numpy(), color="0.75", linewidth=0.8
    )
    shading = axis.contourf(across.numpy(), up.numpy(), speed, levels=12, cmap="Greys", alpha=0.25)
    figure.colorbar(shading, ax=axis, label="speed |dy/dt|")
    groups = [""] * ways.shape[1] if groups is None else groups
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(dict.fromkeys(groups))}
    for way, name in zip(ways.unbind(1), groups, strict=True):
        axis.plot(way[:, 0], way[:, 1], color=colors[name], linewidth=1)
        axis.plot(way[-1, 0], way[-1, 1], color=colors[name], marker="o", markersize=3)
    axis.plot([], [], color="0.75", linewidth=0.8, label="direction of the field")
    for name, color in colors.items():
        axis.plot([], [], color=color, marker="o", markersize=3, label=f"{name or 'solution'}, and its end")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    axis.set(xlabel=names[0], ylabel=names[1], **frame)
    return save(figure, path)


def _scatter(axis: "Axes", points: Tensor, labels: Tensor, classes: Sequence[str]) -> list[Any]:
    return [
        axis.scatter(points[labels == label][:, 0], points[labels == label][:, 1], s=4, color=COLORS[label], label=name)
        for label, name in enumerate(classes)
    ]


def _frame(states: Tensor) -> dict[str, tuple[float, float]]:
    """Limits of the axes, with a margin around all points."""
    points = states.reshape(-1, states.shape[-1])[:, :2]
    low, high = points.amin(0), points.amax(0)
    margin = (0.05 * (high - low)).clamp(min=1e-3)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    return {"xlim": (left, right), "ylim": (bottom, top)}
