"""Training of networks that solve puzzles."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.models.common.config import TrainingConfig
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.puzzle.config import PuzzleConfig, SudokuEquilibriumConfig


class PuzzleModule(SolverModule):
    """Trains a `deqzoo.models.puzzle.equilibrium.PuzzleEquilibrium`; a subclass says what the loss of scores is.

    A training step goes ``depth`` steps of damped iteration from the start, on the tape, with the loss after every
    ``loss_every``-th: each stage of the way is asked for the solution. From ``lead_from`` of the training on, a number
    of steps without gradients comes before, uniform up to ``lead``: what is trained is the end of the way. Their most
    grows evenly until ``lead_full`` of the training, if that is set. From ``settle_from`` on, ``settle`` times the mean
    of log(r + `FLOOR`) is added to the loss, r the relative residual before the last step, where at least
    ``settle_after`` steps came before: the way is to end in a point, and not to go round one. In validation and test
    the network solves to tolerance.

    Logged are ``puzzles_solved``, the share of puzzles whose cells are all right, and ``cells_wrong``.
    """

    FLOOR: ClassVar[float] = 1e-4  # below this residual a puzzle has settled well enough
    Options: ClassVar[type[TrainingConfig]] = PuzzleConfig

    _residual: Tensor | None = None  # (B,), of the batch of a training step that is to settle

    @classmethod
    def of(cls, network: nn.Module, settings: Any) -> "PuzzleModule":
        """With all settings of the recipe."""
        return cls(network, **vars(settings))

    def loss(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """The loss of a network's scores."""
        raise TypeError(f"{type(self).__name__} does not define loss()")

    def step(self, network: Any, batch: Batch, stage: str) -> Step:
        """The loss, and the shares of puzzles solved and of cells wrong."""
        puzzles, solutions = batch
        self._residual = None
        scores = self.scores_on_the_way(network, puzzles) if stage == "train" else [network(puzzles)]
        loss = torch.stack([self.loss(each, puzzles, solutions) for each in scores]).mean()
        wrong = network.wrong(scores[-1], puzzles, solutions)
        metrics = {"puzzles_solved": 1 - wrong.flatten(1).any(1).float().mean(), "cells_wrong": wrong.float().mean()}
        return Step(loss, metrics, puzzles, len(puzzles))

    def scores_on_the_way(self, network: Any, puzzles: Tensor) -> list[Tensor]:
        """The scores, in training, of which the loss is the mean."""
        options, most = self.options, self._most_before()
        lead = int(torch.randint(most + 1, ())) if most else 0
        states = list(network.iterates(puzzles, options.depth, options.damping, lead=lead))
        scores = [network.read(z) for z in states[options.loss_every - 1 :: options.loss_every]]
        if self._done() >= options.settle_from and lead >= options.settle_after:
            self._residual = _relative(states[-1] - states[-2], states[-1]) / options.damping
        return scores

    def penalties(self) -> dict[str, tuple[float | Tensor, Tensor]]:
        """``settling``."""
        penalties = super().penalties()
        if self._residual is not None:
            penalties["settling"] = self.options.settle, (self._residual + self.FLOOR).log().mean()
        return penalties

    def _most_before(self) -> int:
        """Steps that may come before those on the tape."""
        options, done = self.options, self._done()
        if done < options.lead_from:
            return 0
        if options.lead_full is None or done >= options.lead_full:
            return int(options.lead)
        return int(options.lead * (done - options.lead_from) / (options.lead_full - options.lead_from))

    def _done(self) -> float:
        """The share of the training that is done."""
        return self.global_step / int(self.trainer.estimated_stepping_batches)


class SudokuModule(PuzzleModule):
    """By the cross-entropy of the digits: puzzles (B, n, n) -> scores (B, n, n, n)."""

    Options: ClassVar[type[TrainingConfig]] = SudokuEquilibriumConfig

    def loss(self, scores: Tensor, puzzles: Tensor, solutions: Tensor) -> Tensor:
        """Mean over the cells."""
        return F.cross_entropy(scores.flatten(0, 2), solutions.flatten() - 1)


def _relative(difference: Tensor, state: Tensor) -> Tensor:
    """|difference| / |state| of each puzzle, (B,)."""
    return difference.flatten(1).norm(dim=1) / state.flatten(1).norm(dim=1)
