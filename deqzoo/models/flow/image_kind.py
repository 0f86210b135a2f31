"""The kind ``image_flow``: continuous flows of images, in bits/dim."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn

from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.kind import FLOWS, Check, Kind, Trained
from deqzoo.models.common.options import arguments_of, construct, ode_for_use, refuse
from deqzoo.models.flow.config import ImageFlowConfig
from deqzoo.models.flow.image_check import baseline_check, check_rows
from deqzoo.models.flow.image_network import FlatFlow, ImageFlow, MultiscaleFlow, UNetFlow
from deqzoo.models.flow.kind import solving, training_facts
from deqzoo.models.flow.pixels import Gaussianization, Logit, dequantize
from deqzoo.nn import FlowODE

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


BODIES = {"flat": FlatFlow, "multiscale": MultiscaleFlow, "unet": UNetFlow}
PIXELS = ("gaussianization", "logit")
DRAWN = 100  # images in a figure


class ImageFlowKind(Kind):
    """Dequantised images in, log densities out; and samples."""

    family = FLOWS
    info = ImageInfo
    metric = "bits_per_dim"
    takes = "dequantised images in [0, 1] -> log densities (N,) in nats; model.sample(n) draws"
    try_next = "model.solver=dopri8"

    def network(self, settings: ImageFlowConfig, info: ImageInfo) -> nn.Module:
        """See `deqzoo.models.ImageFlow`."""
        if info.size is None:
            raise ConfigError("model.kind=image_flow needs the size of the images; the data do not state it.")
        size = (info.in_channels, *info.size)
        for name, valid in (("body", BODIES), ("pixels", PIXELS)):
            if getattr(settings, name) not in valid:
                raise ConfigError(f"model.{name}={getattr(settings, name)}: valid are {', '.join(valid)}.")
        if settings.pixels != "logit":
            refuse(settings, {"alpha"}, f"model.pixels={settings.pixels}")
        if settings.objective == "flow_matching" and settings.body == "multiscale":
            raise ConfigError(
                "model.objective=flow_matching needs one ODE from noise to data: model.body=flat or model.body=unet."
            )
        options: Any = {"size": size, **arguments_of(FlowODE, settings), **solving(settings)}
        if settings.body == "unet":
            options["widths"] = settings.hidden
        logit = settings.pixels == "logit"
        pixels = construct(Logit, settings) if logit else construct(Gaussianization, info, size=size)
        body = construct(BODIES[settings.body], settings, **options)
        return ImageFlow(body, size, info.levels, pixels)

    def module(self, network: nn.Module, settings: ImageFlowConfig) -> "SolverModule":
        """Maximum likelihood or flow matching."""
        from deqzoo.models.flow.module import ImageFlowModule

        return ImageFlowModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.ode_for_use`."""
        ode_for_use(settings, solver, tol, max_steps)

    def example(self, info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images."""
        random = Generator().manual_seed(0)
        if batch is not None:
            return {"x": dequantize(batch[0][:4].cpu(), info.levels, random)}
        return {"x": torch.rand(4, info.in_channels, *(info.size or (8, 8)), generator=random)}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """The network, and how its likelihood is computed."""
        body = {
            "flat": "one ODE of all pixels, by a perceptron",
            "multiscale": f"ODEs at {model['scales']} resolutions",
            "unet": f"one ODE of all pixels, by a U-Net of {' and '.join(map(str, model['hidden']))} channels",
        }[model["body"]]
        if model["pixels"] == "gaussianization":
            body += ", of pixels that are standard normal, each alone"
        return {"network": body, **training_facts(model), "divergence in the test": model["eval_divergence"]}

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """Samples beside test images; the course of the training."""
        from deqzoo.plots import IMAGE_FLOW_PANELS, plot_images, plot_training

        network: Any = trained.network
        images = next(trained.test_batches())[0][:DRAWN].cpu()
        samples = network.sample(DRAWN, Generator().manual_seed(0)).cpu()
        samples = (samples * network.levels).floor() / (network.levels - 1)  # the levels that pixels have
        plot_images({"test images": images, "samples of the flow": samples}, folder / "samples.png")
        plot_training(trained.history, folder / "training.png", IMAGE_FLOW_PANELS)

    check = Check(
        name="baselines",
        title="How does it compare?",
        measure=lambda trained: baseline_check(trained),
        rows=check_rows,
    )


KIND = ImageFlowKind()
