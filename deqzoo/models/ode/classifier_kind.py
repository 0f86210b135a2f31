"""The kinds ``ode_classifier`` and ``ode_point_classifier``: classifiers whose body is a neural ODE."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import ImageInfo, PointInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.config import ODESolverConfig
from deqzoo.models.common.images import image_example
from deqzoo.models.common.kind import ODES, Check, Kind, Trained
from deqzoo.models.common.options import construct, described, ode_adjoint, ode_for_use, ode_solver
from deqzoo.models.ode.check import check_rows, ode_check
from deqzoo.models.ode.config import ODEClassifierConfig, ODEPointClassifierConfig
from deqzoo.models.ode.network import anode_net, ode_net, point_classifier

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


LARGE, CHECKED_ON_CPU = 100_000, 4000  # above that number of parameters, a CPU measures `ode_check` on that of samples
FRAMES = 31  # of an animation
DRAWN = 600  # points in a figure


class ODEClassifierKind(Kind):
    """What both have in common."""

    family = ODES
    metric = "accuracy"
    try_next = "model.solver=dopri8"

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Cross-entropy, and the penalties of the path."""
        from deqzoo.models.ode.module import ODEClassifierModule

        return ODEClassifierModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """Another solver keeps those of the recipe's options that it has itself; ``tol`` sets rtol and atol."""
        ode_for_use(settings, solver, tol, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Solver, adjoint, augmentation."""
        facts = {
            "forward solver": described(model["solver"], model["solver_options"]),
            "adjoint": described(model["adjoint"], model["adjoint_options"]),
        }
        return facts | ({"augmented dimensions": str(model["augment"])} if model["augment"] else {})

    check = Check(
        name="ode_check",
        title="Is it the ODE that classifies?",
        measure=lambda trained: _measure(trained),
        rows=check_rows,
    )

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training."""
        from deqzoo.plots import ODE_PANELS, plot_training

        plot_training(trained.history, folder / "training.png", ODE_PANELS)


class ODEImageClassifierKind(ODEClassifierKind):
    """Images in, logits out."""

    info = ImageInfo
    takes = "raw images in [0, 1] -> logits"

    def network(self, settings: ODEClassifierConfig, info: ImageInfo) -> nn.Module:
        """See `deqzoo.models.ode_net` and `deqzoo.models.anode_net`."""
        if settings.body == "ode_net":
            width, groups = settings.width, settings.groups
            if width % groups or (width + settings.augment) % groups:
                raise ConfigError(f"model.groups={groups} must divide model.width={width} and width + augment.")
            return construct(ode_net, settings, info, **_options(settings))
        if settings.body != "anode_net":
            raise ConfigError(f"model.body={settings.body}: valid are anode_net, ode_net.")
        if info.size is None:
            raise ConfigError("model.body=anode_net needs the size of the images; the data do not state it.")
        return construct(anode_net, settings, info, hidden=settings.width, **_options(settings))

    def example(self, info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images."""
        return {"x": image_example(info, batch)["images"]}


class ODEPointClassifierKind(ODEClassifierKind):
    """Points in, logits out."""

    info = PointInfo
    takes = "points -> logits"

    def network(self, settings: ODEPointClassifierConfig, info: PointInfo) -> nn.Module:
        """See `deqzoo.models.point_classifier`."""
        return construct(point_classifier, settings, info, **_options(settings))

    def example(self, info: PointInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Sixteen points."""
        if batch is not None:
            return {"x": batch[0][:16].cpu()}
        return {"x": torch.randn(16, info.in_features, generator=torch.Generator().manual_seed(0))}

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training, the flow of the test points (the first two dimensions), the phase portrait."""
        from deqzoo.plots import animate_flow, plot_flow, plot_phase_portrait

        super().plots(trained, folder)
        points, labels = next(trained.test_batches())
        network: Any = trained.network
        start, end = network.ode.times.tolist()
        times = torch.linspace(start, end, FRAMES, device=points.device)
        states = network.ode(points[:DRAWN], times).cpu()
        labels, classes = labels[:DRAWN].cpu(), trained.data.info.classes
        plot_flow(times.cpu(), states, labels, classes, folder / "flow.png")
        animate_flow(times.cpu(), states, labels, classes, folder / "flow.gif")
        if states.shape[2] == 2:
            plot_phase_portrait(
                lambda y: network.ode.dynamics(times[0], y.to(times)).cpu(),
                states[:, :40],
                folder / "phase_portrait.png",
                groups=[classes[label] for label in labels[:40]],
            )


def _measure(trained: Trained) -> dict[str, Any]:
    parameters = sum(p.numel() for p in trained.network.parameters())
    slow = trained.device.type == "cpu" and parameters > LARGE
    batches = [(inputs, labels) for inputs, labels in trained.test_batches()]
    return ode_check(trained.network, batches, limit=CHECKED_ON_CPU if slow else 10_000)


def _options(settings: ODESolverConfig) -> dict[str, Any]:
    """Those of `deqzoo.nn.NeuralODE`."""
    solver, adjoint, augment = ode_solver(settings), ode_adjoint(settings), settings.augment  # type: ignore[attr-defined]
    if augment < 0:
        raise ConfigError(f"model.augment={augment}: it must not be negative.")
    return {"solver": solver, "adjoint": adjoint, "augment": augment}


IMAGES = ODEImageClassifierKind()
POINTS = ODEPointClassifierKind()
