"""The kind ``flow``: continuous flows of points in the plane, whose true density is known."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.densities import DENSITIES, Density
from deqzoo.data.info import DensityInfo
from deqzoo.models.common.kind import FLOWS, Check, Kind, Trained
from deqzoo.models.common.options import described, ode_adjoint, ode_for_use, ode_solver, settings_errors
from deqzoo.models.flow.config import FlowConfig
from deqzoo.nn import ContinuousFlow, FlowODE, squash_mlp

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


GRID = 160  # cells an axis of a density's picture
DRAWN, FRAMES = 2000, 17  # points in a figure, frames of an animation
SECTORS = 5  # of the plane, which colour the points by where they came from
ASKED = {True: 0.05, False: 0.15}  # nats, of smooth densities and others


class FlowKind(Kind):
    """Points in, log densities out; and samples."""

    family = FLOWS
    info = DensityInfo
    metric = "kl_density"
    takes = "points (N, 2) -> log densities (N,) in nats; model.sample((n,)) draws"
    try_next = "model.solver=dopri8"

    def network(self, settings: FlowConfig, info: DensityInfo) -> nn.Module:
        """See `deqzoo.nn.ContinuousFlow`."""
        with settings_errors():
            scale = settings.input_scale
            dynamics = squash_mlp(info.in_features, settings.hidden, settings.activation, input_scale=scale)
            return ContinuousFlow(dynamics, (info.in_features,), divergence=settings.divergence, **solving(settings))

    def module(self, network: nn.Module, settings: FlowConfig) -> "SolverModule":
        """Maximum likelihood or flow matching."""
        from deqzoo.models.flow.module import FlowModule

        module = FlowModule.of(network, settings)
        _, info = network.recipe  # type: ignore[misc]
        module.truth = DENSITIES.get(info.density)
        return module

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.ode_for_use`."""
        ode_for_use(settings, solver, tol, max_steps)

    def example(self, info: DensityInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Sixteen points."""
        if batch is not None:
            return {"x": batch[0][:16].cpu()}
        return {"x": torch.randn(16, info.in_features, generator=torch.Generator().manual_seed(0))}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """How it was trained, and how its likelihood is computed."""
        return training_facts(model)

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The density beside the true one and samples; the points' way from noise; the course of the training."""
        from deqzoo.plots import FLOW_PANELS, animate_flow, plot_density, plot_flow, plot_training

        network: Any = trained.network
        truth = trained.data.density
        x, _ = grid(truth.limit)
        densities = {"true density": truth.log_prob(x), "flow": network.log_prob(x.to(trained.device)).cpu()}
        pictures = {name: value.exp().view(GRID, GRID) for name, value in densities.items()}
        random = torch.Generator().manual_seed(0)
        z = torch.randn(DRAWN, 2, generator=random)
        times = torch.linspace(0, 1, FRAMES)
        states = network.flow.states(z.to(trained.device), times.to(trained.device)).cpu()
        plot_density(pictures, {"samples of the flow": states[-1]}, truth.limit, folder / "density.png")
        sector = ((torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) % 1) * SECTORS).long().clamp(max=SECTORS - 1)
        names = [f"sector {index + 1}" for index in range(SECTORS)]
        plot_flow(times, states, sector, names, folder / "flow.png")
        animate_flow(times, states[:, : DRAWN // 2], sector[: DRAWN // 2], names, folder / "flow.gif")
        plot_training(trained.history, folder / "training.png", FLOW_PANELS)

    check = Check(
        name="density_check",
        title="Is it the true density?",
        measure=lambda trained: _measure(trained),
        rows=lambda check: _rows(check),
    )


def solving(settings: Any) -> dict[str, Any]:
    """The options of `deqzoo.nn.FlowODE` that say how it is solved, and which penalties are wanted."""
    penalties = [name for name in ("kinetic", "jacobian") if getattr(settings, f"{name}_penalty")]
    return {"solver": ode_solver(settings, FlowODE), "adjoint": ode_adjoint(settings), "penalties": penalties}


def training_facts(model: Mapping[str, Any]) -> dict[str, str]:
    """How a flow was trained, and how its likelihood is computed, for the card."""
    likelihood = described(model["solver"], model["solver_options"])
    if model.get("objective", "likelihood") == "flow_matching":  # a card of an older entry may not say
        ways = [model["coupling"].replace("_", " ") + " coupling", model.get("interpolant", "linear") + " interpolant"]
        return {"trained by": f"flow matching, {', '.join(ways)}", "likelihood by": likelihood}
    facts = {
        "trained by": "maximum likelihood through the ODE",
        "likelihood by": likelihood,
        "divergence in training": model["divergence"],
        "adjoint": described(model["adjoint"], model["adjoint_options"]),
    }
    if model["train_tol"] is not None:
        facts["tolerance in training"] = f"{model['train_tol']:g}"
    penalties = {name: model[f"{name}_penalty"] for name in ("kinetic", "jacobian")}
    return facts | {f"{name} penalty": f"{factor:g}" for name, factor in penalties.items() if factor}


def grid(limit: float) -> tuple[Tensor, float]:
    """Midpoints of cells over [-limit, limit]^2, (GRID^2, 2), and the length of a cell."""
    edge = 2 * limit / GRID
    axis = (torch.arange(GRID) + 0.5) * edge - limit
    return torch.cartesian_prod(axis, axis), edge


def _measure(trained: Trained) -> dict[str, Any]:
    """log p_true - log p on the test points: mean, standard error; the integral of p; NFE."""
    with torch.no_grad():
        return _compared(trained)


def _compared(trained: Trained) -> dict[str, Any]:
    network: Any = trained.network
    truth: Density = trained.data.density
    gaps, nfe = [], []
    for (x,) in trained.test_batches():
        gaps.append((truth.log_prob(x) - network.log_prob(x)).double())
        nfe.append(network.flow.ode.solution.nfe)
    gap = torch.cat(gaps)
    x, edge = grid(truth.limit)
    return {
        "mean": gap.mean().item(),
        "standard_error": (gap.std() / len(gap) ** 0.5).item(),
        "n": len(gap),
        "asked": ASKED[truth.smooth],
        "integral": network.log_prob(x.to(trained.device)).exp().sum().item() * edge**2,
        "limit": truth.limit,
        "nfe": sum(nfe) / len(nfe),
    }


def _rows(check: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    measured = f"{check['mean']:.4f} ± {check['standard_error']:.4f} nats at {check['nfe']:.0f} NFE"
    limit = f"[-{check['limit']:g}, {check['limit']:g}]"
    return [
        (f"mean of log p - log q on {check['n']:,} fresh samples of p", measured, f"<= {check['asked']:g} nats"),
        (f"integral of q over {limit} x {limit}, {GRID} x {GRID} cells", f"{check['integral']:.4f}", "1"),
    ]


KIND = FlowKind()
