"""The kinds ``hamiltonian`` and ``node_orbits``: laws of motion from orbits, with and without an energy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import OrbitInfo
from deqzoo.data.mechanics import MECHANICS
from deqzoo.models.common.kind import ODES, Check, Kind, Trained
from deqzoo.models.common.options import construct, described, ode_adjoint, ode_for_use, ode_solver
from deqzoo.models.physics.config import HamiltonianConfig, NodeOrbitsConfig
from deqzoo.models.physics.energy import energy_check, energy_rows, followed, starts_of
from deqzoo.models.physics.orbit_network import HamiltonianOrbits, PlainOrbits

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


DRAWN = 3  # starts in a picture
LOSS = {"train/loss": "training", "val/loss": "validation"}


class OrbitKind(Kind):
    """What both have in common."""

    family = ODES
    info = OrbitInfo
    metric = "energy_error"
    shown = ("energy_error", "energy_error_1")
    takes = "positions and momenta (B, 2 d), times (T,), the first theirs -> (B, T, 2 d)"

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Mean squared error of windows."""
        from deqzoo.models.physics.orbit_module import OrbitModule

        module = OrbitModule.of(network, settings)
        _, module.info = network.recipe  # type: ignore[misc]
        return module

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.ode_for_use`."""
        ode_for_use(settings, solver, tol, max_steps)

    def example(self, info: OrbitInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Some starts and the times of a window."""
        states = torch.linspace(0.3, 0.9, 2 * info.dim)[None] if batch is None else batch[0][:8, 0].cpu()
        return {"states": states, "times": info.spacing * torch.arange(6)}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Solver and adjoint."""
        return {
            "forward solver": described(model["solver"], model["solver_options"]),
            "adjoint": described(model["adjoint"], model["adjoint_options"]),
        }

    def plots(self, trained: Trained, folder: Path) -> None:
        """The error of the energy over the periods, and orbits after the last of them, beside the baseline's."""
        from deqzoo.plots import plot_energy, plot_orbits, plot_training

        networks = {"this entry": trained.network}
        if baseline := trained.find_baseline(getattr(trained.settings, "baseline", None)):
            networks[baseline.entry] = baseline.load(trained.device)
        found = {name: followed(network, trained) for name, network in networks.items()}
        plot_energy({name: errors.cpu() for name, (errors, _) in found.items()}, folder / "energy.png")
        info = trained.data.info
        starts, system = starts_of(trained)[:DRAWN], MECHANICS[info.system]
        times = info.spacing / 4 * torch.arange(4 * round(system.period / info.spacing) + 5)
        truth = torch.tensor(system.simulate(starts.double().cpu().numpy(), times.double().numpy()))
        paths = {name: path[:DRAWN].cpu() for name, (_, path) in found.items()}
        names = ("angle q", "momentum p") if info.dim == 1 else ("x of body 1", "y of body 1")
        plot_orbits(truth, paths, trained.settings.periods, names, folder / "orbits.png")
        plot_training(trained.history, folder / "training.png", {"mean squared error of a window": LOSS})


class HamiltonianKind(OrbitKind):
    """Of a learned energy."""

    try_next = "model.hidden=64"

    def network(self, settings: HamiltonianConfig, info: OrbitInfo) -> nn.Module:
        """See `deqzoo.models.HamiltonianOrbits`."""
        return construct(HamiltonianOrbits, settings, info, solver=ode_solver(settings), adjoint=ode_adjoint(settings))

    check = Check(
        name="energy_check",
        title="Is the energy kept?",
        measure=lambda trained: energy_check(trained),
        rows=energy_rows,
        text=lambda check: _text(check),
    )


class NodeOrbitsKind(OrbitKind):
    """Of a learned field."""

    def network(self, settings: NodeOrbitsConfig, info: OrbitInfo) -> nn.Module:
        """See `deqzoo.models.PlainOrbits`."""
        return construct(PlainOrbits, settings, info, solver=ode_solver(settings), adjoint=ode_adjoint(settings))


def _text(check: Mapping[str, Any]) -> str:
    return (
        "Built in is that the energy is a sum, H = T(p) + V(q), with T and V perceptrons, and that the solver is "
        "symplectic. For two bodies both networks are given the symmetries too: T is one of |p_i|^2, V one of the "
        "distance, and the baseline's field is a sum of the relative position and momentum with factors that depend on "
        "their lengths and their product; so both change neither with the place nor under rotations, and both keep the "
        "total momentum. For the pendulum both get q and p as they are. The data are states without noise; the error "
        "is that of the true energy, relative to its value at the start, which neither network has seen."
    )


HAMILTONIAN = HamiltonianKind()
NODE = NodeOrbitsKind()
