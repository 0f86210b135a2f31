"""Figures of a run, as PNG files: ``residuals.py`` compares solvers, ``training.py`` shows the steps."""

from deqzoo.plots.residuals import plot_residuals, residual_traces
from deqzoo.plots.training import plot_training

__all__ = ["plot_residuals", "plot_training", "residual_traces"]
