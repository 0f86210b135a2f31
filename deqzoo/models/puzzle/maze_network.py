"""Networks that say where to go in a maze: one plans by an equilibrium, one has convolutions instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.data.maze_generator import MOVES
from deqzoo.implicit import EquationAdjoint, FixedPointSolver, Picard
from deqzoo.models.common.puzzles import MAZE, checked_cells
from deqzoo.models.puzzle.maze_answers import MazeAnswer, read_maze
from deqzoo.models.puzzle.maze_cell import GOAL, TURNS, ValueIteration
from deqzoo.models.puzzle.maze_moves import follow, wrong_on_the_way
from deqzoo.nn import DEQ

SCALE = 20.0  # of the scores: next to the best action's value the others' are near, by the discount
TINY = 1e-30  # where no value has come as yet
TURN_OF_MOVE = 0, 2, 1, 3  # up, down, left, right: by how many quarters up is turned to the left


class MazePlanner(nn.Module):
    r"""Moves read off the fixed point of value iteration: V* = cell(V*, maze), scores = 20 W Q* / max_a Q*_a.

    Q*_a are the values of the actions in a cell, of which V* is the largest. As they are divided by it, the scores do
    not depend on how far the goal is, though values fall with the distance. A maze may have any height and width; the
    iteration takes as many steps as its ways are long, and some more. Where a maze is turned, the moves are turned.

    Args:
        actions, hidden, discount: see `ValueIteration`.
        solver: `Picard(tol=1e-9, max_steps=4000, patience=4000)` by default: value iteration. Each step brings values
            one cell further, and a cell counts little in the residual where its value is small: hence the tolerance.
        adjoint: see `deqzoo.nn.DEQ`; each maze is a system of its own.

    Source: Tamar et al., "Value Iteration Networks", 2016; Zhao, Xu, Wong, "Scaling up and Stabilizing Differentiable
    Planning with Implicit Differentiation", 2023.

    >>> network = MazePlanner(actions=2, hidden=8).eval()
    >>> mazes = torch.ones(2, 7, 9, dtype=torch.long)
    >>> network(mazes).shape
    torch.Size([2, 4, 7, 9])
    """

    def __init__(
        self,
        *,
        actions: int = 3,
        hidden: int = 16,
        discount: float = 0.99,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        super().__init__()
        cell = ValueIteration(actions=actions, hidden=hidden, discount=discount)
        solver = Picard(tol=1e-9, max_steps=4000, patience=4000) if solver is None else solver
        self.deq = DEQ(cell, solver=solver, adjoint=adjoint, compact=True)
        self.head = nn.Parameter(torch.zeros(TURNS, actions))  # how much a move has of each action turned against it

    def forward(self, puzzles: Tensor) -> Tensor:
        """Scores (B, 4, height, width) of the moves up, down, left and right, of mazes (B, height, width).

        Args:
            puzzles: of integers, 0 wall, 1 free, 2 start, 3 goal.
        """
        x = self.deq.cell.inject(checked_cells(puzzles, GOAL, MAZE, look=not self.training))
        return self._scores(self.deq(x), x)

    def read(self, z: Tensor, puzzles: Tensor) -> Tensor:
        """The scores (B, 4, height, width) by any values z (B, 1, height, width)."""
        return self._scores(z, self.deq.cell.inject(puzzles))

    def _scores(self, z: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        q = self.deq.cell.of_actions(z, x)
        least = max(TINY, torch.finfo(q.dtype).tiny)
        relative = q / q.amax(1, keepdim=True).clamp_min(least)
        weight = torch.stack([self.head.roll(turn, 0).flatten() for turn in TURN_OF_MOVE])  # (4 moves, 4 actions)
        return SCALE * F.conv2d(relative, weight[..., None, None])

    def wrong(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """See `deqzoo.models.puzzle.maze_moves.wrong_on_the_way`; (B, height, width)."""
        return wrong_on_the_way(scores, puzzles, solutions)

    @torch.no_grad()
    def solve(self, maze: str | Tensor | Sequence[Any]) -> MazeAnswer:
        r"""The way through one maze.

        Args:
            maze: lines of ``#`` (wall), ``.`` or a blank, ``S`` (start) and ``G`` (goal); or a tensor, array or nested
                list of integers (height, width), 0 wall, 1 free, 2 start, 3 goal.

        Returns:
            See `deqzoo.models.puzzle.maze_answers.MazeAnswer`: the cells of the way, whether it ends at the goal,
            whether the iteration has converged.

        Raises:
            ValueError: the maze is malformed, lacks a start or a goal, or the goal cannot be reached.

        >>> network = MazePlanner(actions=2, hidden=8).eval()
        >>> answer = network.solve("S.#\n#.G")
        >>> answer.cells.shape, answer.maze.tolist()
        (torch.Size([2, 3]), [[2, 1, 0], [0, 1, 3]])
        """
        cells = read_maze(maze)
        x = self.deq.cell.inject(cells.unsqueeze(0).to(self.head.device))
        values = self.deq(x)
        moves = self._scores(values, x).argmax(1).cpu()
        visited, arrived = follow(moves, cells.unsqueeze(0))
        solution: Any = self.deq.solution
        return MazeAnswer(
            maze=cells,
            cells=visited[0],
            arrived=bool(arrived),
            steps=int(visited.sum()) - 1 if arrived else None,
            values=values[0, 0].cpu(),
            converged=bool(solution.converged),
            residual=solution.residual.item(),
            evaluations=int(solution.nfe),
        )


class MazeLayers(nn.Module):
    """Scores of the same moves by convolutions: z -> z + conv(relu(z)), a number of times, each with its own weights.

    Args:
        width: channels.
        depth: how many convolutions of 3 x 3: no cell is told what lies further off.

    >>> MazeLayers(width=4, depth=3)(torch.ones(2, 7, 9, dtype=torch.long)).shape
    torch.Size([2, 4, 7, 9])
    """

    def __init__(self, *, width: int = 8, depth: int = 32) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        self.given = nn.Conv2d(4, width, 1)
        self.layers = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=1 / math.sqrt(9 * width * depth))  # type: ignore[arg-type]
        self.head = nn.Conv2d(width, len(MOVES), 1)

    def forward(self, puzzles: Tensor) -> Tensor:
        """Scores (B, 4, height, width) of mazes (B, height, width)."""
        puzzles = checked_cells(puzzles, GOAL, MAZE, look=not self.training)
        z = self.given(F.one_hot(puzzles, 4).movedim(-1, 1).to(self.head.weight.dtype))
        for layer in self.layers:
            z = z + layer(F.relu(z))
        return self.head(F.relu(z))

    def wrong(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """As `MazePlanner.wrong`."""
        return wrong_on_the_way(scores, puzzles, solutions)
