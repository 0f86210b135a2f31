"""The kinds ``sudoku_program`` and ``sudoku_conv``: solvers of Sudoku puzzles that learn from examples alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import SudokuInfo
from deqzoo.implicit import InteriorPoint
from deqzoo.models.common.kind import OPTIMISATION, Check, Kind, Trained
from deqzoo.models.common.options import by_name, construct, described, solver_for_use
from deqzoo.models.optimisation.check import check_rows, random_program, row_space, sudoku_check, sudoku_rules
from deqzoo.models.optimisation.config import SudokuConvConfig, SudokuProgramConfig
from deqzoo.models.optimisation.network import SudokuConvNet, SudokuProgram

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

SOLVERS = {"interior_point": InteriorPoint}
KEPT = "tol", "max_steps", "patience"
SHOWN = 4  # puzzles of a golden input


class SudokuKind(Kind):
    """Puzzles in, scores of the digits of each cell out."""

    family = OPTIMISATION
    info = SudokuInfo
    metric = "puzzles_wrong"
    takes = "puzzles (B, 4, 4), 0 where empty -> scores (B, 4, 4, 4) of digits 1 to 4"

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Mean squared error from the solutions."""
        from deqzoo.models.optimisation.module import SudokuModule

        return SudokuModule.of(network, settings)

    def example(self, info: SudokuInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Puzzles of a batch; without one, an empty one and one with a single digit."""
        if batch is not None:
            return {"puzzles": batch[0][:SHOWN].cpu()}
        puzzles = torch.zeros(2, info.side, info.side, dtype=torch.long)
        puzzles[1, 0, 0] = 1
        return {"puzzles": puzzles}

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training."""
        from deqzoo.plots import SUDOKU_PANELS, plot_training

        plot_training(trained.history, folder / "training.png", SUDOKU_PANELS)


class SudokuConvKind(SudokuKind):
    """By convolutions."""

    def network(self, settings: SudokuConvConfig, info: SudokuInfo) -> nn.Module:
        """See `deqzoo.models.SudokuConvNet`."""
        return construct(SudokuConvNet, settings, info)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size."""
        return {"network": f"{model['depth']} convolutions of width {model['width']}: the explicit baseline"}


class SudokuProgramKind(SudokuKind):
    """By a quadratic program."""

    def network(self, settings: SudokuProgramConfig, info: SudokuInfo) -> nn.Module:
        """See `deqzoo.models.SudokuProgram`."""
        solver = by_name("model.solver", SOLVERS, _make_solver, settings.solver, settings.solver_options)
        return construct(SudokuProgram, settings, info, solver=solver)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.solver_for_use`."""
        solver_for_use(settings, SOLVERS, KEPT, solver, {"tol": tol}, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The program and its solver."""
        program = f"64 unknowns, {model['constraints']} learned equalities, quadratic term {model['strength']:g}"
        return {"program": program, "forward solver": described(model["solver"], model["solver_options"])}

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training; the learned constraints beside the rules; a puzzle with its scores."""
        from deqzoo.plots import plot_puzzle, plot_row_spaces

        super().plots(trained, folder)
        network: Any = trained.network
        constraints = {
            "random, before the training": random_program(network).program.matrix.double(),
            "learned from examples": network.program.matrix.cpu().double(),
            "Sudoku's rules": sudoku_rules(),
        }
        spaces = {name: row_space(matrix) for name, matrix in constraints.items()}
        plot_row_spaces(spaces, folder / "constraints.png")
        puzzles, solutions = next(trained.test_batches())
        fewest = (puzzles > 0).flatten(1).sum(1).argmin()
        scores = network(puzzles[fewest, None])[0]
        plot_puzzle(puzzles[fewest].cpu(), scores.cpu(), solutions[fewest].cpu(), folder / "puzzle.png")

    check = Check(
        name="sudoku_check",
        title="Are the rules learned?",
        measure=lambda trained: sudoku_check(trained),
        rows=check_rows,
    )


def _make_solver(name: str, **options: Any) -> InteriorPoint:
    return SOLVERS[name](**options)


PROGRAM = SudokuProgramKind()
CONV = SudokuConvKind()
