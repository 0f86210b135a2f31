"""A cell whose operations were searched for: what stands where, and what its rivals reach."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from deqzoo.plots.figure import COLORS, panels, save


def plot_cell(
    chosen: Mapping[str, Sequence[str]], losses: Mapping[str, Sequence[float]], level: float, path: Path
) -> Path:
    """Draw the operations of each channel as a table, and the distribution of other cells' validation losses.

    Args:
        chosen: of each place, its operation in each channel.
        losses: of each sort of cells, their validation losses.
        level: that of the cell that was found.
        path: of the PNG.
    """
    figure, (table, of_losses) = panels(2, "Cell")
    table.set_axis_off()
    channels = len(next(iter(chosen.values())))
    shown = table.table(
        [[names[channel] for names in chosen.values()] for channel in range(channels)],
        colLabels=list(chosen),
        rowLabels=[str(channel + 1) for channel in range(channels)],
        cellLoc="center",
        loc="center",
    )
    shown.auto_set_font_size(False)
    shown.set_fontsize(7)
    shown.scale(1.1, 1.3)
    for color, (name, values) in zip(COLORS, losses.items(), strict=False):
        of_losses.hist(list(values), bins=20, color=color, alpha=0.7, label=name)
    of_losses.axvline(level, color=COLORS[1], label="found by implicit gradients")
    of_losses.set(xlabel="validation loss of the derived cell", ylabel="cells")
    of_losses.set_ylim(top=1.35 * of_losses.get_ylim()[1])  # room for the legend
    of_losses.legend(frameon=False)
    return save(figure, path)
