"""A network that adapts to a task before it predicts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deqzoo.implicit import Solution
from deqzoo.implicit.private_api import Dropout
from deqzoo.models.meta.support_statistics import keep_statistics, normalised_by_first
from deqzoo.nn.adaptation import Adaptation, Loss, Params, each_task
from deqzoo.nn.tensors import check_tensor


class MetaLearner(nn.Module):
    """A network whose parameters are the start of an adaptation: fitted to the support set of a task, asked for more.

    Args:
        network: without dropout, and without buffers that a forward pass changes (a batch norm's running statistics).
        method: `MAML`, `FirstOrderMAML` or `IMAML`.
        loss: (predictions, targets) -> a scalar: what adaptation lowers on the support set.
        chunk: tasks that are adapted at once, by `vmap`; 1: one after another; None: all. It changes cost and memory,
            not the result.

    Attributes:
        solutions: of the inner solves of the last forward or `adapt`, one per chunk; empty where the method has none.

    >>> from deqzoo.nn import MAML
    >>> learner = MetaLearner(nn.Linear(1, 1), MAML(steps=1), nn.functional.mse_loss)
    >>> learner(torch.randn(4, 10, 1), torch.randn(4, 10, 1), torch.randn(4, 7, 1)).shape
    torch.Size([4, 7, 1])
    """

    def __init__(
        self,
        network: nn.Module,
        method: Adaptation,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        for name, module in network.named_modules():
            if getattr(module, "track_running_stats", False) or (isinstance(module, Dropout) and module.p):
                raise ValueError(
                    f"{name} is a {type(module).__name__}: adaptation evaluates the network many times, so it must "
                    "have no dropout and no running statistics (track_running_stats=False)"
                )
        self.network, self.method, self.loss, self.chunk = network, method, loss, chunk
        self.solutions: Sequence[Solution] = ()

    def forward(
        self, support_inputs: Tensor, support_targets: Tensor, query_inputs: Tensor, *, alone: bool = False
    ) -> Tensor:
        """Predictions (tasks, queries, ...) of the network adapted to each task.

        Args:
            support_inputs, support_targets: (tasks, support, ...).
            query_inputs: (tasks, queries, ...).
            alone: batch norms take the statistics of the support set, as after `adapt`, so that each query is answered
                by itself; else those of all queries of a task together, as in the papers' numbers.
        """
        return self.predictions(support_inputs, support_targets, query_inputs, [alone])[0]

    def predictions(
        self, support_inputs: Tensor, support_targets: Tensor, query_inputs: Tensor, alone: Sequence[bool]
    ) -> list[Tensor]:
        """As `forward`, for several values of `alone`, after one adaptation."""
        given = {"support_inputs": support_inputs, "support_targets": support_targets, "query_inputs": query_inputs}
        for name, part in given.items():
            check_tensor(name, part)
        if not len(support_inputs) == len(support_targets) == len(query_inputs):
            counts = ", ".join(str(len(part)) for part in (support_inputs, support_targets, query_inputs))
            raise ValueError(
                f"support inputs, support targets and queries must be of the same number of tasks, got {counts}"
            )
        if not len(support_inputs):
            self.solutions = ()
            none = self.predict(self.start, query_inputs.flatten(0, 1)).unflatten(0, query_inputs.shape[:2])
            return [none for _ in alone]
        size = self.chunk or len(support_inputs)
        chunks = zip(support_inputs.split(size), support_targets.split(size), query_inputs.split(size), strict=True)
        predictions: list[list[Tensor]] = [[] for _ in alone]
        solutions = []
        for inputs, targets, queries in chunks:
            adapted, solution = self.method(self.task_loss, self.start, inputs, targets)
            for found, one in zip(predictions, alone, strict=True):
                predict = each_task(self._predict_alone if one else self._predict_together)
                found.append(predict(adapted, inputs, queries))
            solutions += [] if solution is None else [solution]
        self.solutions = solutions
        return [torch.cat(found) for found in predictions]

    def adapt(self, support_inputs: Tensor, support_targets: Tensor) -> nn.Module:
        """The network adapted to one task, (support, ...): a copy in eval mode, to be used as any other network.

        All of its parameters are fitted, also those that need no gradient. Batch norms keep the statistics of the
        support set: what is predicted for one input does not depend on the others. `solutions` tells how near an inner
        solve came.
        """
        for name, part in (("support_inputs", support_inputs), ("support_targets", support_targets)):
            check_tensor(name, part)
        if len(support_inputs) != len(support_targets):
            raise ValueError(
                f"a support set has a target for each input, got {len(support_inputs)} inputs and "
                f"{len(support_targets)} targets"
            )
        with torch.no_grad():
            adapted, solution = self.method(self.task_loss, self.start, support_inputs[None], support_targets[None])
        self.solutions = [] if solution is None else [solution]
        network = copy.deepcopy(self.network)
        network.load_state_dict({name: value[0] for name, value in adapted.items()}, strict=False)
        keep_statistics(network, support_inputs)
        return network

    @property
    def start(self) -> Params:
        """The parameters from which adaptation starts, by name."""
        return dict(self.network.named_parameters())

    @property
    def task_loss(self) -> Loss:
        """(parameters, inputs, targets) -> the loss on one task's data."""
        return lambda parameters, inputs, targets: self.loss(self.predict(parameters, inputs), targets)

    def predict(self, parameters: Params, inputs: Tensor) -> Tensor:
        """The network's outputs with other parameters."""
        return functional_call(self.network, parameters, (inputs,))

    def _predict_together(self, parameters: Params, support: Tensor, inputs: Tensor) -> Tensor:
        return self.predict(parameters, inputs)

    def _predict_alone(self, parameters: Params, support: Tensor, inputs: Tensor) -> Tensor:
        with normalised_by_first(self.network, len(support)):
            return self.predict(parameters, torch.cat([support, inputs]))[len(support) :]

    def __getstate__(self) -> dict[str, object]:
        """For copies and pickles: without the last solutions, which may hang on a graph."""
        return {**self.__dict__, "solutions": ()}
