"""Figures of a run, as PNG and GIF files.

``training.py`` shows the steps, ``convergence.py`` their solves, ``residuals.py`` and ``budget.py`` compare solvers of
DEQ layers, ``flow.py`` draws what ODEs do, ``series.py`` series and tasks, ``density.py`` densities, ``sudoku.py`` and
``mazes.py`` puzzles, ``restored.py`` images, ``decays.py`` learned decays of weights, ``cell.py`` a cell that was
searched for, ``orbits.py`` learned motion.
"""

from deqzoo.plots.budget import Budget, budget_curves, plot_budget, plot_over_hops, plot_over_nfe, plot_over_parameters
from deqzoo.plots.cell import plot_cell
from deqzoo.plots.convergence import plot_convergence
from deqzoo.plots.decays import plot_decays
from deqzoo.plots.density import plot_density, plot_images
from deqzoo.plots.flow import animate_flow, plot_flow, plot_phase_portrait
from deqzoo.plots.mazes import animate_maze, plot_mazes, plot_values
from deqzoo.plots.orbits import plot_energy, plot_orbits
from deqzoo.plots.residuals import plot_residuals, residual_traces
from deqzoo.plots.restored import plot_restored
from deqzoo.plots.series import (
    animate_series,
    plot_adaptation,
    plot_fit,
    plot_over_dropping,
    plot_parameters,
    plot_paths,
    plot_plane,
    plot_series,
)
from deqzoo.plots.stays import plot_stays
from deqzoo.plots.sudoku import animate_puzzle, plot_puzzle, plot_row_spaces, plot_solved
from deqzoo.plots.training import (
    CLEANING_PANELS,
    DECAY_PANELS,
    FEW_SHOT_PANELS,
    FLOW_PANELS,
    IMAGE_FLOW_PANELS,
    LANGUAGE_PANELS,
    META_PANELS,
    ODE_PANELS,
    PANELS,
    PUZZLE_PANELS,
    RESTORED_PANELS,
    SEARCH_PANELS,
    SERIES_PANELS,
    STAY_PANELS,
    SUDOKU_PANELS,
    plot_training,
    plot_trust,
)

__all__ = [
    "CLEANING_PANELS",
    "DECAY_PANELS",
    "FEW_SHOT_PANELS",
    "FLOW_PANELS",
    "IMAGE_FLOW_PANELS",
    "LANGUAGE_PANELS",
    "META_PANELS",
    "ODE_PANELS",
    "PANELS",
    "PUZZLE_PANELS",
    "RESTORED_PANELS",
    "SEARCH_PANELS",
    "SERIES_PANELS",
    "STAY_PANELS",
    "SUDOKU_PANELS",
    "Budget",
    "animate_flow",
    "animate_maze",
    "animate_puzzle",
    "animate_series",
    "budget_curves",
    "plot_adaptation",
    "plot_budget",
    "plot_cell",
    "plot_convergence",
    "plot_decays",
    "plot_density",
    "plot_energy",
    "plot_fit",
    "plot_flow",
    "plot_images",
    "plot_mazes",
    "plot_orbits",
    "plot_over_dropping",
    "plot_over_hops",
    "plot_over_nfe",
    "plot_over_parameters",
    "plot_parameters",
    "plot_paths",
    "plot_phase_portrait",
    "plot_plane",
    "plot_puzzle",
    "plot_residuals",
    "plot_restored",
    "plot_row_spaces",
    "plot_series",
    "plot_solved",
    "plot_stays",
    "plot_training",
    "plot_trust",
    "plot_values",
    "residual_traces",
]
