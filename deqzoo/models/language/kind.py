"""The kind ``language_model``: equilibria with attention, of characters or words, and their explicit baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from deqzoo.data.info import TextInfo
from deqzoo.data.vocabulary import Vocabulary
from deqzoo.errors import ConfigError
from deqzoo.models.common.config import FixedPointConfig, FixedPointTraining, TrainingConfig
from deqzoo.models.common.kind import EQUILIBRIA, Check, Kind, Trained
from deqzoo.models.common.options import (
    arguments_of,
    construct,
    described,
    fixed_point_adjoint,
    fixed_point_for_use,
    fixed_point_solver,
    refuse,
)
from deqzoo.models.language.check import check_rows, language_model_check, over_nfe, sample_text
from deqzoo.models.language.config import LanguageModelConfig
from deqzoo.models.language.network import ContractiveLanguageModel, LanguageModel
from deqzoo.models.language.next_token import NextTokenModel

if TYPE_CHECKING:
    from deqzoo.models.common.module import SolverModule


_NETWORKS: dict[str, type[NextTokenModel]] = {"transformer": LanguageModel, "contractive": ContractiveLanguageModel}
_OF_EQUILIBRIA = {field.name for part in (FixedPointConfig, FixedPointTraining) for field in fields(part)} - {
    "compile",  # explicit layers, too
    *(field.name for field in fields(TrainingConfig)),
}


class LanguageModelKind(Kind):
    """Tokens in, logits of each next token out."""

    family = EQUILIBRIA
    info = TextInfo
    metric = "bits_per_char"
    takes = "tokens -> logits of the next ones; model.generate(prompt, length) -> text"

    def network(self, settings: LanguageModelConfig, info: TextInfo) -> nn.Module:
        """See `deqzoo.models.LanguageModel` and `deqzoo.models.ContractiveLanguageModel`."""
        if settings.cell not in _NETWORKS:
            raise ConfigError(f"model.cell={settings.cell}: valid are {', '.join(_NETWORKS)}.")
        own = _NETWORKS[settings.cell]
        others = {name for network in _NETWORKS.values() for name in arguments_of(network, settings)}
        refuse(settings, others - set(arguments_of(own, settings)), f"model.cell={settings.cell}")
        if settings.layers > 0:
            refuse(settings, _OF_EQUILIBRIA, f"model.layers={settings.layers}, explicit layers")
        return construct(
            own,
            settings,
            vocabulary=Vocabulary(info.vocabulary, info.unit),
            window=info.length,
            solver=fixed_point_solver(settings),
            adjoint=fixed_point_adjoint(settings),
        )

    def module(self, network: nn.Module, settings: LanguageModelConfig) -> "SolverModule":
        """Cross-entropy of the next token, and the Jacobian penalty."""
        from deqzoo.models.language.module import LanguageModelModule

        return LanguageModelModule.of(network, settings)

    def for_use(self, settings: Any, solver: str | None, tol: float | None, max_steps: int | None) -> None:
        """See `deqzoo.models.common.options.fixed_point_for_use`; an explicit baseline has no solver to choose."""
        if settings.layers:
            super().for_use(settings, solver, tol, max_steps)
        else:
            fixed_point_for_use(settings, solver, tol, max_steps)

    def example(self, info: TextInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Two windows of tokens."""
        if batch is not None:
            return {"tokens": batch[0][:2].cpu()}
        random = torch.Generator().manual_seed(0)
        return {"tokens": torch.randint(1, len(info.vocabulary), (2, info.length), generator=random)}

    def facts(self, model: Mapping[str, Any]) -> dict[str, str]:
        """Size, and how the equilibrium is solved."""
        facts = {"network": f"width {model['width']}, {model['heads']} heads"}
        if model["layers"]:
            return facts | {"layers": f"{model['layers']}, each applied once: the explicit baseline"}
        if model.get("cell") == "contractive":
            facts["Lipschitz constant of the cell"] = f"below {model['rho_max']:g}"
        return facts | {
            "forward solver": described(model["solver"], model["solver_options"]),
            "adjoint": described(model["adjoint"], model["adjoint_options"]),
        }

    def plots(self, trained: Trained, folder: Path) -> None:
        """The course of the training; residuals of three solvers, and bits per character over their NFE."""
        from deqzoo.plots import LANGUAGE_PANELS, plot_over_nfe, plot_residuals, plot_training, residual_traces

        network: Any = trained.network
        panels = {label: curves for label, curves in LANGUAGE_PANELS.items() if network.equilibria or "bits" in label}
        plot_training(trained.history, folder / "training.png", panels)
        if network.equilibria:
            batch = next(trained.test_batches())
            tol = trained.settings.solver_options.get("tol")
            plot_residuals(residual_traces(network, batch[0][:16]), tol, folder / "residuals.png")
            plot_over_nfe(over_nfe(network, batch), "bits per character", folder / "bits_over_nfe.png")

    check = Check(
        name="language_model_check",
        title="Does the equilibrium do the work?",
        measure=lambda trained: language_model_check(trained),
        rows=check_rows,
        text=sample_text,
    )


KIND = LanguageModelKind()
