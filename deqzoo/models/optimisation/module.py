"""Training of networks that fill in Sudoku puzzles."""

from torch import nn

from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.optimisation.network import one_hot


class SudokuModule(SolverModule):
    """Trains ``network``, puzzles (B, n, n) -> scores (B, n, n, n), by the mean squared error from one-hot solutions.

    Logged are ``puzzles_wrong``, the share of puzzles with a wrong digit, and ``cells_wrong``, that of cells; the
    digits are those of the largest scores.
    """

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The error, and the shares of puzzles and of cells that are wrong."""
        puzzles, solutions = batch
        scores = network(puzzles)
        loss = (scores - one_hot(solutions, scores.shape[-1])).square().mean()
        wrong = scores.argmax(-1) + 1 != solutions
        metrics = {"puzzles_wrong": wrong.flatten(1).any(1).float().mean(), "cells_wrong": wrong.float().mean()}
        return Step(loss, metrics, puzzles, len(puzzles))
