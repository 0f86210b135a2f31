"""Training of equilibria that solve puzzles."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.puzzle.config import SudokuEquilibriumConfig


class SudokuModule(SolverModule):
    """Trains ``network``, puzzles (B, n, n) -> scores (B, n, n, n), by the cross-entropy of the digits.

    A training step goes ``depth`` steps of damped iteration from noise, on the tape, with the loss after every
    ``loss_every``-th: each stage of the way is asked for the solution. From ``lead_from`` of the training on, a number
    of steps without gradients comes before, uniform up to ``lead``. So what is trained in the end is the neighbourhood
    of the equilibrium: the way on from there must not leave it. In validation and test the network solves to tolerance.

    Logged are ``puzzles_solved``, the share of puzzles whose digits are all right, and ``cells_wrong``.
    """

    Options: ClassVar[type[TrainingConfig]] = SudokuEquilibriumConfig

    @classmethod
    def of(cls, network: nn.Module, settings: Any) -> "SudokuModule":
        """With all settings of the recipe."""
        return cls(network, **vars(settings))

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The loss, and the shares of puzzles solved and of cells wrong."""
        puzzles, solutions = batch
        if stage == "train":
            states = [z for i, z in enumerate(self._iterates(network, puzzles), 1) if i % self.options.loss_every == 0]
            scores = [network.read(z) for z in states]  # type: ignore[operator]
        else:
            scores = [network(puzzles)]
        loss = torch.stack([F.cross_entropy(each.flatten(0, 2), solutions.flatten() - 1) for each in scores]).mean()
        wrong = scores[-1].argmax(-1) + 1 != solutions
        metrics = {"puzzles_solved": 1 - wrong.flatten(1).any(1).float().mean(), "cells_wrong": wrong.float().mean()}
        return Step(loss, metrics, puzzles, len(puzzles))

    def _iterates(self, network: Any, puzzles: Tensor) -> Any:
        options, lead = self.options, 0
        if self.global_step >= options.lead_from * int(self.trainer.estimated_stepping_batches):
            lead = int(torch.randint(options.lead + 1, ()))
        return network.iterates(puzzles, options.depth, options.damping, lead=lead)
