"""What the solves of a training cost and reached, step by step: `deqzoo.ConvergenceMonitor` draws it."""

from collections.abc import Mapping
from pathlib import Path

from deqzoo.plots.figure import panels as make_panels
from deqzoo.plots.figure import save
from deqzoo.plots.training import Curves, Rows, draw_lines

CONVERGENCE_PANELS: Mapping[str, Curves] = {
    "NFE, largest over the layers": {"nfe": "forward", "nfe_backward": "backward"},
    "median relative residual": {"residual": "forward", "residual_backward": "backward"},
    "share of samples that did not converge": {"unconverged": "equilibria", "failed": "ODEs"},
    "steps of the ODE solver": {"steps": "accepted", "rejected": "rejected"},
}


def plot_convergence(rows: Rows, path: Path) -> Path:
    """Draw rows of a `deqzoo.ConvergenceMonitor`, a panel for each thing that they have."""
    names = {name for row in rows for name in row}
    chosen = {label: curves for label, curves in CONVERGENCE_PANELS.items() if names & set(curves)}
    figure, axes = make_panels(len(chosen), "Convergence of the solves")
    for axis, (label, curves) in zip(axes, chosen.items(), strict=True):
        draw_lines(axis, rows, curves, label)
        if "residual" in curves and any(row.get(name, 0) > 0 for row in rows for name in curves):
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
    return save(figure, path)
