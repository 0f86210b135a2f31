"""The kinds ``node_pendulum`` and ``pinn_pendulum``: physical parameters from noisy angles."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import SeriesInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.kind import ODES, Check, Kind, Trained
from deqzoo.models.common.options import construct, described, ode_adjoint, ode_for_use, ode_solver
from deqzoo.models.physics.config import NodePendulumConfig, PINNPendulumConfig
from deqzoo.models.physics.pendulum_network import PendulumODE, PendulumPINN

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule
    from deqzoo.models.physics.pendulum_module import PendulumModule


PARAMETERS = ("gravity_over_length", "damping")
ORBITS = 4  # in the phase portrait


class PendulumKind(Kind):
    """What both have in common."""

    family = ODES
    info = SeriesInfo
    metric = "parameter_error"
    takes = "times (T,) in s -> angles (pendulums, T) in rad"

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.ode_for_use`."""
        ode_for_use(settings, solver, tol, max_steps)

    def example(self, info: SeriesInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Times of the window."""
        return {"times": torch.linspace(0, info.window, 21)}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Solver and adjoint, and where learning started."""
        return {
            "forward solver": described(model["solver"], model["solver_options"]),
            "adjoint": described(model["adjoint"], model["adjoint_options"]),
            "first guess": ", ".join(f"{name} = {model[name]}" for name in PARAMETERS),
        }

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The fit against the truth, the phase portrait, and how the parameters found their values."""
        from deqzoo.data.series import SeriesBatch
        from deqzoo.plots import plot_fit, plot_parameters, plot_phase_portrait

        network: Any = trained.network
        data = SeriesBatch(*next(trained.test_batches()))
        times, states = data.times[0], network.states(data.times[0])
        window = trained.data.info.window
        angles = {"truth": data.truth, "measured": data.values.where(data.measured, torch.nan)}
        drawn = {name: value[..., 0].cpu() for name, value in angles.items()}
        plot_fit(times.cpu(), drawn | {"solved": states[..., 0].cpu()}, window, folder / "fit.png")
        physics = network.physics
        plot_phase_portrait(
            lambda y: physics(times[0], y.to(times)).cpu(),
            states[:ORBITS].transpose(0, 1).cpu(),
            folder / "phase_portrait.png",
            names=("angle (rad)", "angular velocity (rad/s)"),
        )
        truth = dict(zip(PARAMETERS, trained.data.info.parameters, strict=True))
        plot_parameters(trained.history, truth, folder / "parameters.png")

    check = Check(
        name="physics",
        title="Are the parameters found?",
        measure=lambda trained: _measure(trained),
        rows=lambda check: [
            (name, f"{check[name]['learned']:.4f} ({check[name]['error']:+.2%})", f"{check[name]['truth']:g} ± 1 %")
            for name in PARAMETERS
        ],
    )

    def _solving(self, settings: Any, info: SeriesInfo) -> dict[str, Any]:
        if len(info.parameters) != len(PARAMETERS) or info.channels != 1:
            raise ConfigError(f"model.kind={settings.kind} needs data=pendulum: angles whose parameters are known.")
        guess = {name: getattr(settings, name) for name in PARAMETERS}
        if wrong := [name for name, value in guess.items() if value <= 0]:
            raise ConfigError(f"model.{wrong[0]} must be positive, got {guess[wrong[0]]}.")
        return {"solver": ode_solver(settings), "adjoint": ode_adjoint(settings)}


class NodePendulumKind(PendulumKind):
    """Through the solver."""

    def network(self, settings: NodePendulumConfig, info: SeriesInfo) -> nn.Module:
        """See `deqzoo.models.PendulumODE`."""
        return construct(PendulumODE, settings, info, **self._solving(settings, info))

    def module(self, network: nn.Module, settings: NodePendulumConfig) -> "SolverModule":
        """Mean squared error over a growing time."""
        from deqzoo.models.physics.pendulum_module import PendulumModule

        return _with_truth(PendulumModule.of(network, settings))


class PINNPendulumKind(PendulumKind):
    """By the residual."""

    def network(self, settings: PINNPendulumConfig, info: SeriesInfo) -> nn.Module:
        """See `deqzoo.models.PendulumPINN`."""
        return construct(PendulumPINN, settings, info, span=info.window, **self._solving(settings, info))

    def module(self, network: nn.Module, settings: PINNPendulumConfig) -> "SolverModule":
        """Mean squared error and mean squared residual."""
        from deqzoo.models.physics.pendulum_module import PINNModule

        return _with_truth(PINNModule.of(network, settings))


def _with_truth(module: "PendulumModule") -> "PendulumModule":
    """The module, told the parameters that made the data that its network was built for."""
    _, info = module.network.recipe  # type: ignore[misc]
    module.truth = info.parameters
    return module


def _measure(trained: Trained) -> dict[str, Any]:
    learned = trained.network.physics.log_parameters.detach().exp().tolist()  # type: ignore[union-attr, operator]
    return {
        name: {"learned": value, "truth": truth, "error": value / truth - 1}
        for name, value, truth in zip(PARAMETERS, learned, trained.data.info.parameters, strict=True)
    }


NODE = NodePendulumKind()
PINN = PINNPendulumKind()
