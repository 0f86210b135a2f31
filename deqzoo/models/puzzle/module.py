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
    of steps without gradients comes before, uniform up to ``lead``: what is trained is the end of the way. From
    ``settle_from`` on, ``settle`` times the mean of log(r + `FLOOR`) is added to the loss, r the relative residual
    before the last step: the way is to end in a point, and not to go round one. In validation and test the network
    solves to tolerance.

    Logged are ``puzzles_solved``, the share of puzzles whose digits are all right, and ``cells_wrong``.
    """

    FLOOR: ClassVar[float] = 1e-4  # below this residual a puzzle has settled well enough
    Options: ClassVar[type[TrainingConfig]] = SudokuEquilibriumConfig

    _residual: Tensor | None = None  # (B,), of the batch of a training step that is to settle

    @classmethod
    def of(cls, network: nn.Module, settings: Any) -> "SudokuModule":
        """With all settings of the recipe."""
        return cls(network, **vars(settings))

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """The loss, and the shares of puzzles solved and of cells wrong."""
        puzzles, solutions = batch
        self._residual = None
        if stage == "train":
            states = list(self._iterates(network, puzzles))
            every = self.options.loss_every
            scores = [network.read(z) for z in states[every - 1 :: every]]  # type: ignore[operator]
            if self._reached(self.options.settle_from):
                self._residual = _relative(states[-1] - states[-2], states[-1]) / self.options.damping
        else:
            scores = [network(puzzles)]
        loss = torch.stack([F.cross_entropy(each.flatten(0, 2), solutions.flatten() - 1) for each in scores]).mean()
        wrong = scores[-1].argmax(-1) + 1 != solutions
        metrics = {"puzzles_solved": 1 - wrong.flatten(1).any(1).float().mean(), "cells_wrong": wrong.float().mean()}
        return Step(loss, metrics, puzzles, len(puzzles))

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """``settling``."""
        penalties = super().penalties()
        if self._residual is not None:
            penalties["settling"] = self.options.settle, (self._residual + self.FLOOR).log().mean()
        return penalties

    def _iterates(self, network: Any, puzzles: Tensor) -> Any:
        options, lead = self.options, 0
        if self._reached(options.lead_from):
            lead = int(torch.randint(options.lead + 1, ()))
        return network.iterates(puzzles, options.depth, options.damping, lead=lead)

    def _reached(self, share: float) -> bool:
        """Whether so much of the training is done."""
        return self.global_step >= share * int(self.trainer.estimated_stepping_batches)


def _relative(difference: Tensor, state: Tensor) -> Tensor:
    """|difference| / |state| of each puzzle, (B,)."""
    return difference.flatten(1).norm(dim=1) / state.flatten(1).norm(dim=1)
