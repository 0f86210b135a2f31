"""The look that the figures share. Matplotlib without pyplot: no global state, no display."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqzoo.atomic import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # told apart by colour-blind readers too


def panels(columns: int, title: str) -> tuple["Figure", list["Axes"]]:
    """A figure with a row of ``columns`` panels and a title over them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 4.2 * columns, 3.8), layout="constrained")
    figure.suptitle(title)
    axes: Any = figure.subplots(1, columns, squeeze=False)
    for axis in axes[0]:
        axis.grid(True, which="major", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def save(figure: "Figure", path: Path) -> Path:
    """Write the figure to ``path`` (PNG), whole."""
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=150, pil_kwargs={"optimize": True})
    return path


def save_animation(figure: "Figure", draw: Callable[[int], object], frames: int, path: Path, fps: int = 12) -> Path:
    """Write a GIF to ``path``, whole: ``draw(frame)`` changes the figure; the last frame stands for half a second."""
    from matplotlib.animation import PillowWriter

    draw(frames - 1)  # with its titles and legends, for which there is to be room
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # as that frame has it: laid out anew, each would take much longer
    writer = PillowWriter(fps=fps)
    with whole_file(path) as part, writer.saving(figure, str(part), dpi=80):
        for frame in [*range(frames), *[frames - 1] * (fps // 2)]:
            draw(frame)
            writer.grab_frame()
    return path
