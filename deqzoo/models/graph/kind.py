"""The kinds ``implicit_graph`` and ``graph_convolution``: classifiers of the nodes of a graph."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import GraphInfo
from deqzoo.models.common.kind import EQUILIBRIA, Check, Kind, Trained
from deqzoo.models.common.options import (
    construct,
    described,
    fixed_point_adjoint,
    fixed_point_for_use,
    fixed_point_solver,
)
from deqzoo.models.graph.check import accuracy_by_hops, accuracy_over_nfe, check_rows, graph_check
from deqzoo.models.graph.config import GraphConvolutionConfig, ImplicitGraphConfig
from deqzoo.models.graph.network import GraphConvolutionNetwork, ImplicitGraphNetwork

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


SHOWN = 200  # nodes of a golden input


class GraphKind(Kind):
    """Features of all nodes and edges in, logits of all nodes out."""

    family = EQUILIBRIA
    info = GraphInfo
    metric = "accuracy"
    takes = "features (N, F) and edges (2, E) -> logits of the nodes (N, classes)"

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy of the labelled nodes."""
        from deqzoo.models.graph.module import GraphClassifier

        return GraphClassifier.of(network, settings)

    def example(self, info: GraphInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The first nodes of a graph and the edges among them; without a batch, a chain with noise."""
        if batch is not None:
            features, edges = batch[0][:SHOWN].cpu(), batch[1].cpu()
            return {"features": features, "edges": edges[:, (edges < len(features)).all(0)]}
        features = torch.randn(8, info.in_features, generator=torch.Generator().manual_seed(0))
        return {"features": features, "edges": torch.stack([torch.arange(7), torch.arange(1, 8)])}


class GraphConvolutionKind(GraphKind):
    """Of a finite depth."""

    def network(self, settings: GraphConvolutionConfig, info: GraphInfo) -> nn.Module:
        """See `deqzoo.models.GraphConvolutionNetwork`."""
        return construct(GraphConvolutionNetwork, settings, info)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Depth."""
        return {"network": f"{model['depth']} graph convolutions of width {model['hidden']}"}

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training, and how far the class is known."""
        from deqzoo.plots import PANELS, plot_over_hops, plot_training

        plot_training(trained.history, folder / "training.png", {"accuracy": PANELS["accuracy"]})
        plot_over_hops({"this entry": accuracy_by_hops(trained.network, trained)}, folder / "accuracy_over_hops.png")


class ImplicitGraphKind(GraphKind):
    """Of an equilibrium."""

    try_next = "model.solver=picard"

    def network(self, settings: ImplicitGraphConfig, info: GraphInfo) -> nn.Module:
        """See `deqzoo.models.ImplicitGraphNetwork`."""
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(ImplicitGraphNetwork, settings, info, solver=solver, adjoint=adjoint)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`."""
        fixed_point_for_use(settings, solver, tol, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size, solver and gradient."""
        return {
            "network": f"an equilibrium of width {model['hidden']}, kappa = {model['kappa']:g}",
            "forward solver": described(model["solver"], model["solver_options"]),
            "adjoint": described(model["adjoint"], model["adjoint_options"]),
        }

    def plots(self, trained: Trained, folder: Path) -> None:
        """How far the class is known, also of the baseline; accuracy over NFE; the course of the training."""
        from deqzoo.plots import plot_over_hops, plot_over_nfe, plot_training

        networks = {"this entry": trained.network}
        if baseline := trained.find_baseline(trained.settings.baseline):
            networks[baseline.entry] = baseline.load(trained.device)
        curves = {name: accuracy_by_hops(network, trained) for name, network in networks.items()}
        plot_over_hops(curves, folder / "accuracy_over_hops.png")
        plot_over_nfe(accuracy_over_nfe(trained), "accuracy", folder / "accuracy_over_nfe.png")
        plot_training(trained.history, folder / "training.png")

    check = Check(
        name="graph_check",
        title="How far does the class reach?",
        measure=lambda trained: graph_check(trained),
        rows=check_rows,
    )


CONVOLUTION = GraphConvolutionKind()
IMPLICIT = ImplicitGraphKind()
