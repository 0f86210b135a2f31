"""A network that finds the shortest paths of mazes by an equilibrium, and one that has layers instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.models.puzzle.equilibrium import PuzzleEquilibrium
from deqzoo.models.puzzle.maze_answers import MazeAnswer, join, read_maze
from deqzoo.models.puzzle.maze_cell import WALL, MazeCell


class MazeEquilibrium(PuzzleEquilibrium):
    """Reads the shortest paths of a maze off an equilibrium: z* = cell(z*, maze), scores = v . z* + c.

    A cell has a positive score if it lies on a shortest path from the start to the goal; where several are equally
    short, on any of them. A maze may have any height and width.

    Args:
        width, hidden: see `MazeCell`.
        solver, adjoint: see `deqzoo.nn.DEQ`; each maze is a system of its own.

    >>> network = MazeEquilibrium(width=8, hidden=16).eval()
    >>> network(torch.ones(2, 7, 9, dtype=torch.long)).shape
    torch.Size([2, 7, 9])
    """

    def __init__(
        self,
        *,
        width: int = 24,
        hidden: int = 48,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        super().__init__(MazeCell(width=width, hidden=hidden), solver=solver, adjoint=adjoint)
        self.head = nn.Linear(width, 1)

    def forward(self, puzzles: Tensor, start: int = 0) -> Tensor:
        """Scores (B, height, width) of mazes (B, height, width).

        Args:
            puzzles: int64, 0 wall, 1 free, 2 start, 3 goal.
            start: without meaning here: the iteration always starts from zeros.
        """
        return super().forward(puzzles, start)

    def read(self, z: Tensor) -> Tensor:
        """The scores (B, height, width) of states."""
        return self.head(z).squeeze(-1)

    def wrong(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """The cells that are said to lie on a path and do not, or the other way round, (B, height, width)."""
        return wrong_cells(scores, puzzles, solutions)

    @torch.no_grad()
    def solve(self, maze: str | Tensor | Sequence[Any]) -> MazeAnswer:
        r"""The shortest paths of one maze.

        Args:
            maze: lines of ``#`` (wall), ``.`` or a blank, ``S`` (start) and ``G`` (goal); or a tensor, array or nested
                list of integers (height, width), 0 wall, 1 free, 2 start, 3 goal.

        Returns:
            See `deqzoo.models.puzzle.maze_answers.MazeAnswer`: the cells, whether they join start and goal, whether the
            iteration has converged.

        Raises:
            ValueError: the maze is malformed, lacks a start or a goal, or the goal cannot be reached.

        >>> network = MazeEquilibrium(width=8, hidden=16).eval()
        >>> answer = network.solve("S.#\n#.G")
        >>> answer.cells.shape, answer.maze.tolist()
        (torch.Size([2, 3]), [[2, 1, 0], [0, 1, 3]])
        """
        cells = read_maze(maze)
        scores = self(cells.unsqueeze(0).to(self.head.weight.device))[0].cpu()
        solution: Any = self.deq.solution
        found = (scores > 0) & (cells != WALL)
        steps, joined = join(found, cells)
        return MazeAnswer(
            cells,
            found,
            steps is not None and bool((joined == found).all()),
            steps,
            bool(solution.converged),
            solution.residual.item(),
            int(solution.steps),
        )


class MazeLayers(nn.Module):
    """The same in a fixed number of layers: each is a `MazeCell` with weights of its own, and is told the maze.

    Args:
        width, hidden: see `MazeCell`.
        depth: number of layers.

    >>> MazeLayers(width=4, hidden=4, depth=3)(torch.ones(2, 7, 9, dtype=torch.long)).shape
    torch.Size([2, 7, 9])
    """

    def __init__(self, *, width: int = 8, hidden: int = 8, depth: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList([MazeCell(width=width, hidden=hidden) for _ in range(depth)])
        self.head = nn.Linear(width, 1)

    def forward(self, puzzles: Tensor) -> Tensor:
        """Scores (B, height, width) of mazes (B, height, width)."""
        *_, last = self.states(puzzles)
        return self.read(last)

    def states(self, puzzles: Tensor) -> Iterator[Tensor]:
        """The state after each layer."""
        z: Tensor | None = None
        layer: Any
        for layer in self.layers:
            x = layer.inject(puzzles)
            z = layer(layer.initial_state(x) if z is None else z, x)
            yield z

    def read(self, z: Tensor) -> Tensor:
        """The scores (B, height, width) of states."""
        return self.head(z).squeeze(-1)

    def wrong(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """As `MazeEquilibrium.wrong`."""
        return wrong_cells(scores, puzzles, solutions)


def wrong_cells(scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
    """The cells, walls apart, of which the sign of the score is not that of the solution, (B, height, width)."""
    return ((scores > 0) != solutions) & (puzzles != WALL)
