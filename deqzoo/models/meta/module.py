"""Training of networks that adapt to a task before they predict."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from deqzoo.implicit import Solution, Status
from deqzoo.models.common.module import Batch, SolverModule, Step
from deqzoo.models.common.solves import largest_nfe
from deqzoo.models.meta.support_statistics import batch_norms


class MetaModule(SolverModule):
    """Trains the start of a `deqzoo.models.MetaLearner`: the loss on query sets, after adaptation to support sets.

    A batch is support inputs and targets, query inputs and targets, each with one leading index per task. Logged
    besides what `SolverModule` logs: the tasks' score, and, of methods with an inner solve, ``nfe``, ``stationarity``
    (the inner gradient left, relative to that at the start; its median) and ``inner_unconverged`` (the fraction of
    tasks whose inner problem was not solved to its tolerance); in training ``meta_residual`` and ``bad_curvature`` of
    the linear solves too. In the test, the half-width of a 95 % interval of the score's mean, and, of networks with
    batch norms, the score where each query is asked by itself (``accuracy_alone``).

    Args:
        network: a `MetaLearner`.
        options: those of `deqzoo.models.common.config.TrainingConfig`.
    """

    score_name: ClassVar[str]

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__(network, **options)
        self._scores: list[Tensor] = []

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """How good the predictions of each task are, (tasks,)."""
        raise TypeError(f"{type(self).__name__} does not define scores()")

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Loss and score on the query sets."""
        learner: Any = network
        *support, queries, targets = batch
        # Papers ask all queries together; in the test each is asked by itself, too, where that makes a difference.
        alone = [False, True] if stage == "test" and batch_norms(learner.network) else [False]
        predictions, *of_each = learner.predictions(*support, queries, alone)
        loss = learner.loss(predictions.flatten(0, 1), targets.flatten(0, 1))
        scores = self.scores(predictions.detach(), targets)
        if stage == "test":
            self._scores.append(scores)
        metrics = {self.score_name: scores.mean(), **inner_metrics(learner.solutions)}
        metrics |= {f"{self.score_name}_alone": self.scores(found, targets).mean() for found in of_each}
        inputs = torch.cat([part.flatten(1) for part in batch if part.is_floating_point()], 1)  # a task per row
        return Step(loss, metrics, inputs, len(targets))

    def on_after_backward(self) -> None:
        """Log the linear solves of the meta-gradient."""
        learner: Any = self.network
        solved = [solution.backward for solution in learner.solutions if solution.backward is not None]
        if solved:
            status = torch.cat([solution.status for solution in solved])
            self.log("train/meta_residual", torch.cat([solution.residual for solution in solved]).median())
            self.log("train/bad_curvature", (status == Status.BAD_CURVATURE).float().mean())

    def on_test_epoch_end(self) -> None:
        """Log the interval of the mean score over all test tasks."""
        super().on_test_epoch_end()
        scores = torch.cat([torch.zeros(0, device=self.device), *self._scores]).double()
        self._scores = []
        own = torch.stack([torch.ones_like(scores), scores, scores.square()]).sum(1)
        count, total, squares = self.sum_over_processes(own)
        variance = ((squares - total.square() / count) / (count - 1)).clamp(min=0)  # nan for a single task
        self.log(f"test/{self.score_name}_interval", (1.96 * (variance / count).sqrt()).float(), sync_dist=True)


class MetaRegressionModule(MetaModule):
    """Mean squared error of the queries."""

    score_name = "mse"

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean squared errors."""
        return (predictions - targets).square().flatten(1).mean(1)


class FewShotModule(MetaModule):
    """Accuracy on the queries."""

    score_name = "accuracy"

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Fractions that are right."""
        return (predictions.argmax(2) == targets).float().mean(1)


def inner_metrics(solutions: list[Solution]) -> dict[str, Tensor]:
    """What the inner solves of one batch cost and reached; {} if there were none."""
    if not solutions:
        return {}
    converged = torch.cat([solution.converged.reshape(-1) for solution in solutions])
    return {
        "nfe": largest_nfe(solutions),
        "stationarity": torch.cat([solution.residual.reshape(-1) for solution in solutions]).median(),
        "inner_unconverged": 1.0 - converged.float().mean(),
    }
