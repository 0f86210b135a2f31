"""The kind ``sudoku_equilibrium``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import SudokuInfo
from deqzoo.models.common.kind import EQUILIBRIA, Check, Kind, Trained
from deqzoo.models.common.options import (
    construct,
    described,
    fixed_point_adjoint,
    fixed_point_for_use,
    fixed_point_solver,
)
from deqzoo.models.puzzle.check import over_nfe, puzzle_sets
from deqzoo.models.puzzle.config import SudokuEquilibriumConfig
from deqzoo.models.puzzle.sudoku_check import (
    MOST,
    answers_over_starts,
    check_rows,
    check_text,
    digits_given,
    set_label,
    sudoku_equilibrium_check,
)
from deqzoo.models.puzzle.sudoku_network import SudokuEquilibrium

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

SHOWN = 4  # puzzles of a golden input
DRAWN = 100  # puzzles of a set, for the curves
FRAMES = 24  # of the animation, at most


class SudokuEquilibriumKind(Kind):
    """Puzzles in, scores of the digits of each cell out."""

    family = EQUILIBRIA
    info = SudokuInfo
    metric = "puzzles_solved"
    takes = "puzzles (B, n, n), 0: empty -> scores (B, n, n, n); or model.solve(text)"

    def network(self, settings: SudokuEquilibriumConfig, info: SudokuInfo) -> nn.Module:
        """See `deqzoo.models.SudokuEquilibrium`."""
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(SudokuEquilibrium, settings, info, solver=solver, adjoint=adjoint)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy along the way, and at the equilibrium."""
        from deqzoo.models.puzzle.module import SudokuModule

        return SudokuModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`."""
        fixed_point_for_use(settings, solver, tol, max_steps)

    def example(self, info: SudokuInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Puzzles of a batch; without one, an empty one and one with a single digit."""
        if batch is not None:
            return {"puzzles": batch[0][:SHOWN].cpu()}
        puzzles = torch.zeros(2, info.side, info.side, dtype=torch.long)
        puzzles[1, 0, 0] = 1
        return {"puzzles": puzzles}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size, solver and training."""
        shared = "shared by all digits" if model["digit_symmetry"] else "without digit symmetry"
        return {
            "network": f"an equilibrium of width {model['width']}, {shared}",
            "forward solver": described(model["solver"], model["solver_options"]),
            "trained by": f"{model['depth']} steps on the tape, in the end after up to {model['lead']} others",
        }

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training, what more steps and more starts solve, and a puzzle while it is being solved."""
        from deqzoo.plots import PUZZLE_PANELS, animate_puzzle, plot_solved, plot_training

        plot_training(trained.history, folder / "training.png", PUZZLE_PANELS)
        network: Any = trained.network
        nfe = trained.settings.depth + trained.settings.lead
        whole = puzzle_sets(trained, MOST)
        sets = {set_label(name, digits_given(p)): (p[:DRAWN], s[:DRAWN]) for name, (p, s) in whole.items()}
        steps = sorted({max(1, nfe * factor // 8) for factor in (1, 2, 4, 8, 16, 32)})
        nfes = {name: over_nfe(network, puzzles, steps) for name, puzzles in sets.items()}
        starts = {name: answers_over_starts(network, puzzles) for name, puzzles in sets.items()}
        plot_solved(nfes, starts, folder / "solved.png")
        puzzle = _to_show(network, *whole["17" if "17" in whole else "test"])
        animate_puzzle(puzzle.cpu(), _frames(network, puzzle), folder / "solving.gif")

    check = Check(
        name="sudoku_equilibrium_check",
        title="Does more computation solve more?",
        measure=lambda trained: sudoku_equilibrium_check(trained),
        rows=check_rows,
        text=check_text,
    )


def _to_show(network: Any, puzzles: Tensor, solutions: Tensor) -> Tensor:
    """Of the first puzzles that are solved, the one that takes the most steps; else any."""
    puzzles, solutions = puzzles[:DRAWN], solutions[:DRAWN]
    right = (network(puzzles).argmax(-1) + 1 == solutions).flatten(1).all(1) & network.deq.solution.converged
    return puzzles[torch.where(right, network.deq.solution.steps, -1).argmax()]


def _frames(network: Any, puzzle: Tensor) -> list[tuple[int, Tensor, float]]:
    """Steps, probabilities of the digits and residual: all of the first steps, then fewer and fewer."""
    network(puzzle[None])
    last, damping = int(network.deq.solution.steps.max()), network.deq.solver.damping
    wanted = {round(last ** (i / (FRAMES - 1))) for i in range(FRAMES)}
    frames, before = [], None
    for count, z in enumerate(network.iterates(puzzle[None], last, damping, start=0), 1):
        if before is not None and count in wanted:
            image = before + (z - before) / damping
            residual = ((image - before).norm() / image.norm()).item()
            frames.append((count, network.read(z)[0].softmax(-1).cpu(), residual))
        before = z
    return frames


KIND = SudokuEquilibriumKind()
