"""Residual over iterations: what each solver makes of the same trained layers and the same images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deqzoo.implicit import make_solver
from deqzoo.nn import use_solver
from deqzoo.plots.figure import COLORS, panels, save

SOLVERS = ("picard", "anderson", "broyden")


@torch.no_grad()
def residual_traces(
    network: nn.Module, images: Tensor, names: Sequence[str] = SOLVERS, max_steps: int = 30
) -> dict[str, list[Tensor]]:
    """Relative residuals of each solver: one tensor (steps + 1, B) per DEQ layer of ``network``."""
    traces = {}
    for name in names:
        with use_solver(network, make_solver(name, tol=0.0, max_steps=max_steps, trace=True)):
            network(images)
        layers = network.equilibria
        traces[name] = [layer.solution.trace.cpu() for layer in layers]  # type: ignore[union-attr]
    return traces


def plot_residuals(traces: Mapping[str, Sequence[Tensor]], tol: float | None, path: Path) -> Path:
    """Draw `residual_traces`: a panel per layer, a line per solver (median and middle 80 % of the samples).

    Residuals below the precision of their dtype are round-off, and are drawn at that precision.
    """
    layers = len(next(iter(traces.values())))
    figure, axes = panels(layers, "Residual of the fixed point on test samples")
    for index, axis in enumerate(axes):
        precision = max(torch.finfo(of_layers[index].dtype).eps for of_layers in traces.values())
        for color, (name, of_layers) in zip(COLORS, traces.items(), strict=False):
            trace = of_layers[index].double()
            trace = trace.where(torch.isfinite(trace), torch.nan).clamp(min=precision)
            low, middle, high = torch.nanquantile(trace, torch.tensor([0.1, 0.5, 0.9]).double(), dim=1)
            axis.fill_between(range(len(trace)), low, high, color=color, alpha=0.15, linewidth=0)
            axis.plot(middle, label=f"{name}, median", color=color, marker="o", markersize=3)
        axis.fill_between([], [], color="0.3", alpha=0.15, linewidth=0, label="middle 80 % of the samples")
        if tol is not None:
            axis.axhline(tol, color="0.4", linestyle="--", linewidth=1, label=f"tolerance {tol:g}")
        if any((of_layers[index] <= precision).any() for of_layers in traces.values()):
            axis.axhline(precision, color="0.4", linestyle=":", linewidth=1, label=f"precision {precision:.0e}")
        axis.set(xlabel="iteration", ylabel="relative residual |f(z) - z| / |f(z)|", yscale="log")
        axis.set_title(f"DEQ layer {index + 1} of {layers}", fontsize="medium")
        axis.legend(fontsize="small", edgecolor="none", framealpha=0.6)  # lines run behind it
    return save(figure, path)
