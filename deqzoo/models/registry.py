"""The kinds of models: of each, where its settings and its `Kind` are. This file imports no torch.

A kind is a folder, or some files in one, and a line here. Others may be registered from outside of this package:
``KINDS["mine"] = KindPlace("my_package.config:MyConfig", "my_package.kind:KIND")`` before a configuration is read.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from deqzoo.models.common.kind import Kind


class KindPlace(NamedTuple):
    """Where a kind is found, as MODULE:NAME.

    Attributes:
        settings: the dataclass of its recipes, in a module that imports no torch.
        kind: the object that answers for it.
    """

    settings: str
    kind: str


def _in(package: str, settings: str, kind: str) -> KindPlace:
    return KindPlace(f"deqzoo.models.{package}.config:{settings}", f"deqzoo.models.{package}.{kind}")


KINDS: dict[str, KindPlace] = {
    "deq_classifier": _in("equilibrium", "DEQClassifierConfig", "unbounded_kind:KIND"),
    "contractive_classifier": _in("equilibrium", "ContractiveClassifierConfig", "contractive_kind:KIND"),
    "mdeq_classifier": _in("equilibrium", "MDEQClassifierConfig", "mdeq_kind:KIND"),
    "mondeq_classifier": _in("equilibrium", "MonDEQClassifierConfig", "mondeq_kind:KIND"),
    "conv_classifier": _in("equilibrium", "ConvClassifierConfig", "explicit_kind:CONV"),
    "residual_classifier": _in("equilibrium", "ResidualClassifierConfig", "explicit_kind:RESIDUAL"),
    "implicit_graph": _in("graph", "ImplicitGraphConfig", "kind:IMPLICIT"),
    "graph_convolution": _in("graph", "GraphConvolutionConfig", "kind:CONVOLUTION"),
    "language_model": _in("language", "LanguageModelConfig", "kind:KIND"),
    "ode_classifier": _in("ode", "ODEClassifierConfig", "classifier_kind:IMAGES"),
    "ode_point_classifier": _in("ode", "ODEPointClassifierConfig", "classifier_kind:POINTS"),
    "latent_ode": _in("ode", "LatentODEConfig", "latent_ode_kind:KIND"),
    "neural_cde": _in("ode", "NeuralCDEConfig", "series_classifier_kind:CDE"),
    "gru_d": _in("ode", "GRUDConfig", "series_classifier_kind:GRUD"),
    "latent_ode_stays": _in("ode", "LatentODEStaysConfig", "stay_kind:MORTALITY"),
    "latent_ode_interpolation": _in("ode", "LatentODEInterpolationConfig", "stay_kind:INTERPOLATION"),
    "gru_d_stays": _in("ode", "GRUDStaysConfig", "stay_kind:GRUD"),
    "node_pendulum": _in("physics", "NodePendulumConfig", "pendulum_kind:NODE"),
    "pinn_pendulum": _in("physics", "PINNPendulumConfig", "pendulum_kind:PINN"),
    "hamiltonian": _in("physics", "HamiltonianConfig", "orbit_kind:HAMILTONIAN"),
    "node_orbits": _in("physics", "NodeOrbitsConfig", "orbit_kind:NODE"),
    "flow": _in("flow", "FlowConfig", "kind:KIND"),
    "image_flow": _in("flow", "ImageFlowConfig", "image_kind:KIND"),
    "meta_regression": _in("meta", "MetaRegressionConfig", "regression_kind:KIND"),
    "few_shot": _in("meta", "FewShotConfig", "few_shot_kind:KIND"),
    "deblur": _in("inverse", "DeblurConfig", "kind:KIND"),
    "implicit_pictures": _in("picture", "ImplicitPictureConfig", "kind:IMPLICIT"),
    "siren_pictures": _in("picture", "SirenConfig", "kind:SIREN"),
    "sudoku_equilibrium": _in("puzzle", "SudokuEquilibriumConfig", "sudoku_kind:KIND"),
    "maze_planner": _in("puzzle", "MazePlannerConfig", "maze_kind:PLANNER"),
    "maze_layers": _in("puzzle", "MazeLayersConfig", "maze_kind:LAYERS"),
    "sudoku_program": _in("optimisation", "SudokuProgramConfig", "kind:PROGRAM"),
    "sudoku_conv": _in("optimisation", "SudokuConvConfig", "kind:CONV"),
    "cell_search": _in("meta", "CellSearchConfig", "cell_search_kind:KIND"),
    "learned_decay": _in("meta", "LearnedDecayConfig", "learned_decay_kind:KIND"),
    "data_cleaning": _in("meta", "DataCleaningConfig", "data_cleaning_kind:KIND"),
}


def settings_of(name: str) -> type:
    """The dataclass of a kind's recipes.

    >>> settings_of("flow").__name__
    'FlowConfig'
    """
    return resolve_name(KINDS[name].settings)


def kind_of(name: str) -> "Kind":
    """The `Kind` of this name, one of `KINDS`.

    >>> kind_of("deq_classifier").metric
    'accuracy'
    """
    kind: Kind = resolve_name(KINDS[name].kind)
    return kind
