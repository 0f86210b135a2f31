"""Training of networks that say where to go in a maze."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.puzzle.config import MazeLayersConfig, MazePlannerConfig
from deqzoo.models.puzzle.maze_moves import moves_right, wrong_on_the_way


class MazeModule(SolverModule):
    """Trains a `deqzoo.models.MazePlanner` to move well from each cell: the loss is the mean of -log p(optimal move).

    The mean is over the cells from which there is a way to the goal; where several moves are optimal, p is the sum of
    theirs. Logged are ``cells_wrong``, the share of all these cells from which the move is not optimal, and, but for
    the training, ``puzzles_solved``, the share of mazes in which one comes from start to goal in as few steps as
    possible.
    """

    Options: ClassVar[type[TrainingConfig]] = MazePlannerConfig

    def step(self, network: Any, batch: Batch, stage: str) -> Step:
        """The loss, and the shares of mazes solved and of cells wrong."""
        mazes, optimal = batch
        scores = network(mazes)
        cells = optimal.any(1)
        wrong = (cells & ~moves_right(scores, optimal)).sum() / cells.sum()
        metrics = {"cells_wrong": wrong}
        if stage != "train":  # one looks at each move whether all have arrived: a GPU would wait for it
            lost = wrong_on_the_way(scores.detach(), mazes, optimal).flatten(1).any(1)
            metrics["puzzles_solved"] = 1 - lost.float().mean()
        return Step(self.loss(scores, optimal), metrics, mazes, len(mazes))

    def loss(self, scores: Tensor, optimal: Tensor) -> Tensor:
        """Of scores (B, 4, height, width); ``optimal``, whether a move is, of the same shape."""
        cells = optimal.any(1, keepdim=True)
        chances = scores.log_softmax(1).masked_fill(cells & ~optimal, -torch.inf).logsumexp(1, keepdim=True)
        return -(chances * cells).sum() / cells.sum()


class MazeLayersModule(MazeModule):
    """Trains a `deqzoo.models.MazeLayers` likewise."""

    Options: ClassVar[type[TrainingConfig]] = MazeLayersConfig
