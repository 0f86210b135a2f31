"""The kinds ``maze_equilibrium`` and ``maze_layers``."""

from collections.abc import Mapping, Sequence
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
from deqzoo.models.puzzle.config import MazeEquilibriumConfig, MazeLayersConfig
from deqzoo.models.puzzle.maze_check import check_rows, check_text, maze_check, sets_by_side, share_right
from deqzoo.models.puzzle.maze_network import MazeEquilibrium, MazeLayers

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

SHOWN = 2  # mazes of a golden input
DRAWN = 100  # mazes of a set, for the curves
FRAMES = 30  # of the animation, at most
NEAR = 0.1  # of its last length: a cell's state that is no further off has settled


class MazeKind(Kind):
    """Mazes in, a score for each cell out."""

    family = EQUILIBRIA
    info = MazeInfo
    metric = "puzzles_solved"
    takes = "mazes (B, h, w), 0 wall, 1 free, 2 start, 3 goal -> scores (B, h, w), positive on shortest paths"

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


class MazeEquilibriumKind(MazeKind):
    """By an equilibrium."""

    takes = f"{MazeKind.takes}; or model.solve(text)"

    def network(self, settings: MazeEquilibriumConfig, info: MazeInfo) -> nn.Module:
        """See `deqzoo.models.MazeEquilibrium`."""
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(MazeEquilibrium, settings, solver=solver, adjoint=adjoint)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy along the way, and at the equilibrium."""
        from deqzoo.models.puzzle.module import MazeModule

        return MazeModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`."""
        fixed_point_for_use(settings, solver, tol, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size, solver and training."""
        return {
            "network": f"an equilibrium of width {model['width']}, hidden width {model['hidden']}",
            "forward solver": described(model["solver"], model["solver_options"]),
            "trained by": f"{model['depth']} steps on the tape, later after up to {model['lead']} others",
        }

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training; what is right over steps and over size; a maze while it is being solved."""
        from deqzoo.plots import animate_maze, plot_mazes, plot_wave

        super().plots(trained, folder)
        network: Any = trained.network
        nfe = trained.settings.depth + trained.settings.lead
        sets = {side: (mazes[:DRAWN], paths[:DRAWN]) for side, (mazes, paths) in sets_by_side(trained).items()}
        steps = sorted({max(1, nfe * factor // 4) for factor in (1, 2, 4, 8, 16)})
        over_size = {"equilibrium": {side: share_right(network, mazes) for side, mazes in sets.items()}}
        if baseline := trained.find_baseline(trained.settings.baseline):
            other = baseline.load(trained.device)
            over_size[baseline.entry] = {side: share_right(other, mazes) for side, mazes in sets.items()}
        curves = {side: over_nfe(network, mazes, steps) for side, mazes in sets.items()}
        plot_mazes(curves, over_size, trained.data.tensors[0].shape[-1], folder / "mazes.png")
        mazes, paths = next(trained.test_batches())
        maze = mazes[paths.flatten(1).sum(1).argmax()]  # of the first ones that with the longest way
        network(maze[None])
        states, damping = _states(network, maze), network.deq.solver.damping
        off = torch.stack([(z - states[-1]).norm(dim=-1) / states[-1].norm(dim=-1).clamp_min(1e-6) for z in states])
        counts = torch.arange(1, len(off) + 1, device=off.device).view(-1, 1, 1)
        settled = 1 + torch.where(off > NEAR, counts, 0).amax(0)
        last = network.read(states[-1]).sigmoid()
        plot_wave(maze.cpu(), last.cpu(), settled.clamp_max(len(states)).cpu(), folder / "wave.png")
        animate_maze(maze.cpu(), _frames(network, states, damping), folder / "solving.gif")

    check = Check(
        name="maze_check",
        title="Does the iteration go on where the training has ended?",
        measure=lambda trained: maze_check(trained),
        rows=check_rows,
        text=check_text,
    )


class MazeLayersKind(MazeKind):
    """By layers with weights of their own: the baseline."""

    def network(self, settings: MazeLayersConfig, info: MazeInfo) -> nn.Module:
        """See `deqzoo.models.MazeLayers`."""
        return construct(MazeLayers, settings)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy after some layers."""
        from deqzoo.models.puzzle.module import MazeLayersModule

        return MazeLayersModule.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size."""
        return {"network": f"{model['depth']} layers of width {model['width']}: the explicit baseline"}


def _states(network: Any, maze: Tensor) -> list[Tensor]:
    """The states of the iteration that has just solved this maze, (height, width, features) each."""
    count, damping = max(2, int(network.deq.solution.steps)), network.deq.solver.damping
    return [z[0] for z in network.iterates(maze[None], count, damping, start=0)]


def _frames(network: Any, states: Sequence[Tensor], damping: float) -> list[tuple[int, Tensor, Tensor]]:
    """Steps, probabilities and change of some states, evenly over the steps."""
    frames = []
    for count in sorted({round(1 + i * (len(states) - 2) / (FRAMES - 1)) for i in range(FRAMES)}):
        before, z = states[count - 1], states[count]
        change = ((z - before).norm(dim=-1) / damping / z.norm(dim=-1).clamp_min(1e-6)).clamp_max(1.0)
        frames.append((count + 1, network.read(z).sigmoid().cpu(), change.cpu()))
    return frames


EQUILIBRIUM = MazeEquilibriumKind()
LAYERS = MazeLayersKind()
