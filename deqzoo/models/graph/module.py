"""Training of networks that classify the nodes of a graph."""

from typing import Any

from torch import nn

from deqzoo.data.chains import GraphBatch
from deqzoo.models.common.classifier_module import Classifier
from deqzoo.models.common.module import Batch, Step


class GraphClassifier(Classifier):
    """Trains ``network``, (features, edges) -> logits (nodes, classes), on those nodes whose labels a batch asks for.

    After each step of the optimiser the network is projected, if it has a ``project``: an equilibrium stays well posed.
    """

    def step(self, network: nn.Module, batch: Batch, stage: str) -> Step:
        """Cross-entropy and accuracy of the nodes asked for."""
        graph = GraphBatch(*batch)
        logits = network(graph.features, graph.edges)[graph.nodes]
        return self.scored(logits, graph.labels, graph.features, stage)

    def configure_optimizers(self) -> Any:
        """The optimiser, which projects after each step, and the schedule."""
        configured = super().configure_optimizers()
        project: Any = getattr(self.network, "project", None)
        if project is not None:  # as a hook of the optimiser, so that the moving average is one of projected weights
            configured["optimizer"].register_step_post_hook(lambda *_: project())
        return configured
