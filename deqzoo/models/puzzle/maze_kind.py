"""The kinds ``maze_planner`` and ``maze_layers``."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import MazeInfo
from deqzoo.models.common.kind import EQUILIBRIA, Check, Kind, Trained
from deqzoo.models.common.options import (
    construct,
    described,
    fixed_point_adjoint,
    fixed_point_for_use,
    fixed_point_solver,
)
from deqzoo.models.puzzle.check import over_nfe
from deqzoo.models.puzzle.config import MazeLayersConfig, MazePlannerConfig
from deqzoo.models.puzzle.maze_check import (
    COUNTS,
    check_rows,
    check_text,
    maze_check,
    path_lengths,
    sets_by_side,
    share_right,
)
from deqzoo.models.puzzle.maze_moves import follow
from deqzoo.models.puzzle.maze_network import MazeLayers, MazePlanner

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

SHOWN = 2  # mazes of a golden input
DRAWN = 100  # mazes of a set, for the curves
FRAMES = 30  # of the animation, at most


class MazeKind(Kind):
    """Mazes in, scores of the moves from each cell out."""

    family = EQUILIBRIA
    info = MazeInfo
    metric = "puzzles_solved"
    takes = "mazes (B, h, w) -> scores of moves (B, 4, h, w)"

    def example(self, info: MazeInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Mazes of a batch; without one, two without walls."""
        if batch is not None:
            return {"puzzles": batch[0][:SHOWN].cpu()}
        mazes = torch.ones(2, 7, 7, dtype=torch.long)
        mazes[:, 0, 0], mazes[:, 2, 4] = 2, 3
        return {"puzzles": mazes}

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training."""
        from deqzoo.plots import PUZZLE_PANELS, plot_training

        plot_training(trained.history, folder / "training.png", PUZZLE_PANELS)


class MazePlannerKind(MazeKind):
    """By the equilibrium of value iteration."""

    takes = f"{MazeKind.takes}; or model.solve(text)"

    def network(self, settings: MazePlannerConfig, info: MazeInfo) -> nn.Module:
        """See `deqzoo.models.MazePlanner`."""
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(MazePlanner, settings, solver=solver, adjoint=adjoint)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """By the optimal moves of all cells."""
        from deqzoo.models.puzzle.maze_module import MazeModule

        return MazeModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`."""
        fixed_point_for_use(settings, solver, tol, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size, solver and gradient."""
        actions = f"{model['actions']} actions in four directions each"
        return {
            "network": f"value iteration with {actions}, discount {model['discount']}",
            "forward solver": described(model["solver"], model["solver_options"]),
            "gradient in training": described(model["adjoint"], model["adjoint_options"]),
        }

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training; what is right over steps and over size; a maze while it is being solved."""
        from deqzoo.plots import animate_maze, plot_mazes, plot_values

        super().plots(trained, folder)
        network: Any = trained.network
        sets = {side: (mazes[:DRAWN], moves[:DRAWN]) for side, (mazes, moves) in sets_by_side(trained).items()}
        over_size = {"equilibrium": {side: share_right(network, mazes) for side, mazes in sets.items()}}
        for entry in trained.settings.baselines:
            if baseline := trained.find_baseline(entry):
                other = baseline.load(trained.device)
                over_size[baseline.entry] = {side: share_right(other, mazes) for side, mazes in sets.items()}
        curves = {side: over_nfe(network, mazes, COUNTS, read=network.read) for side, mazes in sets.items()}
        plot_mazes(curves, over_size, trained.data.tensors[0].shape[-1], folder / "mazes.png")
        mazes, _ = next(trained.test_batches())
        maze = mazes[int(path_lengths(mazes).argmax())]  # of the first ones that with the longest way
        frames = list(_iterations(network, maze))
        shown = [frames[len(frames) // 4], frames[len(frames) // 2], frames[-1]]
        plot_values(maze.cpu(), {count: values for count, values, _ in shown}, frames[-1][2], folder / "values.png")
        chosen = sorted({round(i * (len(frames) - 1) / (FRAMES - 1)) for i in range(FRAMES)})
        animate_maze(maze.cpu(), [frames[i] for i in chosen], folder / "solving.gif")

    check = Check(
        name="maze_check",
        title="Does the iteration go on where the training has ended?",
        measure=lambda trained: maze_check(trained),
        rows=check_rows,
        text=check_text,
    )


class MazeLayersKind(MazeKind):
    """By convolutions: the explicit baseline."""

    def network(self, settings: MazeLayersConfig, info: MazeInfo) -> nn.Module:
        """See `deqzoo.models.MazeLayers`."""
        return construct(MazeLayers, settings)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """By the optimal moves of all cells."""
        from deqzoo.models.puzzle.maze_module import MazeLayersModule

        return MazeLayersModule.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size."""
        return {"network": f"{model['depth']} convolutions of {model['width']} channels: the explicit baseline"}


def _iterations(network: Any, maze: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Value iteration in a maze until one comes to the goal, and to half as many steps again.

    Of each its number, the values (height, width), and the cells that one visits by them.
    """
    puzzles, cell = maze[None], network.deq.cell
    x = cell.inject(puzzles)
    z, arrived_at = cell.initial_state(x), None
    for count in range(1, network.deq.solver.max_steps + 1):
        z = cell(z, x)
        cells, arrived = follow(network.read(z, puzzles).argmax(1), puzzles)
        yield count, z[0, 0].cpu(), cells[0].cpu()
        if arrived_at is None and arrived:
            arrived_at = count
        if count >= (2 * maze.numel() if arrived_at is None else 1.5 * arrived_at):
            return


PLANNER = MazePlannerKind()
LAYERS = MazeLayersKind()
