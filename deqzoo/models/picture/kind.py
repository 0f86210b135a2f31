"""The kinds ``implicit_pictures`` and ``siren_pictures``: pictures as networks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import PictureInfo
from deqzoo.data.pictures import LICENCES, coordinates
from deqzoo.models.common.kind import EQUILIBRIA, Check, Kind, Trained
from deqzoo.models.common.options import (
    construct,
    described,
    fixed_point_adjoint,
    fixed_point_for_use,
    fixed_point_solver,
)
from deqzoo.models.picture.check import by_width, check_rows, check_text, mean, over_steps, picture_check, pixels, sizes
from deqzoo.models.picture.config import ImplicitPictureConfig, SirenConfig
from deqzoo.models.picture.network import ImplicitPictures, SirenPictures

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule

PANELS = {
    "PSNR (dB), the largest width": {"train/psnr": "training", "val/psnr": "all pixels"},
    "sum of the mean squared errors": {"train/loss": "training", "val/loss": "all pixels"},
    "NFE of a solve": {"train/nfe": "training", "val/nfe": "all pixels, the longest"},
}
DRAWN_STEPS = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64


class PictureKind(Kind):
    """What both have in common."""

    family = EQUILIBRIA
    info = PictureInfo
    metric = "psnr"
    takes = "places (N, 2) -> colours (N, widths, pictures, 3); or model.picture(name, side)"

    def example(self, info: PictureInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The middles of 4 x 4 pixels."""
        return {"places": coordinates(4)}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Widths, what the number is of, and whose the pictures are."""
        return {
            "widths": f"{', '.join(map(str, model['widths']))}; each picture has a network of each",
            "PSNR": "of the largest width, the mean over the pictures",
            "pictures": LICENCES,
        }

    @torch.no_grad()
    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training, the pictures, PSNR over parameters, and over steps."""
        from deqzoo.plots import plot_over_nfe, plot_over_parameters, plot_restored, plot_training

        network: Any = trained.network
        places, colours = pixels(trained)
        side = trained.data.info.side
        networks = {trained.settings.kind.removesuffix("_pictures"): network}
        if baseline := trained.find_baseline(getattr(trained.settings, "baseline", None)):
            networks[baseline.entry] = baseline.load(trained.device)
        truth = colours.permute(1, 2, 0).unflatten(2, (side, side))
        drawn, curves = {"truth": truth.cpu()}, {}
        for name, one in networks.items():
            drawn[name] = torch.stack([one.picture(picture, side) for picture in one.pictures]).cpu()
            found, parameters = by_width(one, places, colours), sizes(one)
            curves[name] = [(parameters[width], mean(row)) for width, row in found.items()]
        plot_restored(drawn, folder / "pictures.png")
        plot_over_parameters(curves, "mean PSNR (dB)", folder / "over_parameters.png")
        if isinstance(network, ImplicitPictures):
            found = over_steps(network, places, colours, DRAWN_STEPS)
            lines = {
                f"{sizes(network)[width]:,} parameters": [(int(steps), value) for steps, value in row.items()]
                for width, row in found.items()
            }
            plot_over_nfe(lines, "mean PSNR (dB)", folder / "over_steps.png")
        plot_training(trained.history, folder / "training.png", PANELS)


class ImplicitPictureKind(PictureKind):
    """Equilibria."""

    def network(self, settings: ImplicitPictureConfig, info: PictureInfo) -> nn.Module:
        """See `deqzoo.models.ImplicitPictures`."""
        solver, adjoint = fixed_point_solver(settings), fixed_point_adjoint(settings)
        return construct(ImplicitPictures, settings, info, solver=solver, adjoint=adjoint)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Mean squared error of colours."""
        from deqzoo.models.picture.module import ImplicitPictureModule

        return ImplicitPictureModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`."""
        fixed_point_for_use(settings, solver, tol, max_steps)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """As `PictureKind.facts`, solver and gradient."""
        return super().facts(model) | {
            "bound of the matrices' norms": f"{model['bound']:g}",
            "forward solver": described(model["solver"], model["solver_options"]),
            "gradient": described(model["adjoint"], model["adjoint_options"]),
        }

    check = Check(
        name="picture_check",
        title="Is a picture represented as well as by several layers, and do the solves converge?",
        measure=picture_check,
        rows=check_rows,
        text=check_text,
    )


class SirenKind(PictureKind):
    """Several layers of sines."""

    def network(self, settings: SirenConfig, info: PictureInfo) -> nn.Module:
        """See `deqzoo.models.SirenPictures`."""
        return construct(SirenPictures, settings, info)

    def module(self, network: nn.Module, settings: Any) -> "SolverModule":
        """Mean squared error of colours."""
        from deqzoo.models.picture.module import SirenModule

        return SirenModule.of(network, settings)

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """As `PictureKind.facts`, and the depth."""
        return super().facts(model) | {"layers of sines": str(model["layers"])}


IMPLICIT = ImplicitPictureKind()
SIREN = SirenKind()
