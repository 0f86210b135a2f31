"""The kind ``deblur``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models.common.images import image_example
from deqzoo.models.common.kind import EQUILIBRIA, Check, Kind, Trained
from deqzoo.models.common.options import (
    construct,
    described,
    fixed_point_adjoint,
    fixed_point_for_use,
    fixed_point_solver,
)
from deqzoo.models.inverse.blur import TEST_SEED
from deqzoo.models.inverse.check import (
    check_rows,
    check_text,
    deblur_check,
    fitted_filters,
    over_steps,
    validation_images,
)
from deqzoo.models.inverse.config import DeblurConfig
from deqzoo.models.inverse.network import FACTOR, DeblurNetwork

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

DRAWN = 6  # images
FOR_CURVES = 200  # test images over steps


class DeblurKind(Kind):
    """Blurred images in, images out."""

    family = EQUILIBRIA
    info = ImageInfo
    metric = "psnr"
    takes = "blurred images in [0, 1] -> images; or model.deblur(image)"

    def network(self, settings: DeblurConfig, info: ImageInfo) -> nn.Module:
        """See `deqzoo.models.DeblurNetwork`."""
        if info.size is not None and (min(info.size) < settings.blur_size or any(side % FACTOR for side in info.size)):
            raise ConfigError(
                f"model.blur_size={settings.blur_size} needs images of at least as many pixels, of even height and "
                f"width; those of this data set have {info.size[0]}x{info.size[1]}."
            )
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(DeblurNetwork, settings, info, solver=solver, adjoint=adjoint)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Mean squared error of restored images."""
        from deqzoo.models.inverse.module import DeblurModule

        return DeblurModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`."""
        fixed_point_for_use(settings, solver, tol, max_steps)

    def example(self, info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Four images, as if they were blurred."""
        return {"measured": image_example(info, batch)["images"]}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Blur, size, solver and gradient."""
        side = model["blur_size"]
        blur = f"{side}x{side} Gaussian of variance {model['blur_variance']:g} squared pixels, circular"
        return {
            "measured": f"{blur}; noise of standard deviation {model['noise']:g}",
            "regulariser": f"{model['depth']} convolutions of width {model['width']}, at half the resolution",
            "forward solver": described(model["solver"], model["solver_options"]),
            "gradient": described(model["adjoint"], model["adjoint_options"]),
        }

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training, PSNR over steps, and images blurred and restored."""
        from deqzoo.plots import RESTORED_PANELS, plot_over_nfe, plot_restored, plot_training

        plot_training(trained.history, folder / "training.png", RESTORED_PANELS)
        network: Any = trained.network
        test = [batch[0] for batch in trained.test_batches()]
        most = trained.settings.train_max_steps or network.deq.solver.max_steps
        steps = sorted({1, 2, 3, 4, 6, 8, most, 2 * most, 5 * most})
        curves = {trained.settings.solver: list(over_steps(network, test, steps, FOR_CURVES).items())}
        baseline = trained.find_baseline(trained.settings.baseline)
        truth = test[0][:DRAWN]
        measured = network.blur.measured(truth, TEST_SEED)
        ratio, _ = fitted_filters(network.blur, validation_images(trained))
        drawn = {"blurred, with noise": measured, "Wiener filter": network.blur.wiener(measured, ratio)}
        if baseline:
            other: Any = baseline.load(trained.device)
            curves["unrolled"] = list(over_steps(other, test, steps, FOR_CURVES).items())
            drawn["unrolled"] = other(measured)
        drawn |= {"restored": network(measured), "truth": truth}
        plot_over_nfe(curves, "PSNR (dB)", folder / "over_steps.png")
        plot_restored({name: images.cpu() for name, images in drawn.items()}, folder / "restored.png")

    check = Check(
        name="deblur_check",
        title="Is it better than filters, as good as unrolling, and no worse for more steps?",
        measure=deblur_check,
        rows=check_rows,
        text=check_text,
    )


KIND = DeblurKind()
