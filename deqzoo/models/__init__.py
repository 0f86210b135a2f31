"""The models of the zoo: networks, the LightningModules that train them, and the way from a recipe to a network.

A family is a folder: its settings (``config.py``), networks, kinds, LightningModules and checks; ``common/`` has what
they share. ``registry.py`` is the table of kinds, ``build.py`` makes a network of a recipe's settings.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqzoo.data.info import ImageInfo, PointInfo
    from deqzoo.models.build import build_network
    from deqzoo.models.common.classifier_module import Classifier
    from deqzoo.models.common.finite import NonFiniteError
    from deqzoo.models.common.image_classifier import ImageClassifier
    from deqzoo.models.common.module import SolverModule
    from deqzoo.models.equilibrium.config import DEQClassifierConfig
    from deqzoo.models.equilibrium.contractive_network import contractive_net
    from deqzoo.models.equilibrium.explicit_network import conv_net, residual_net
    from deqzoo.models.equilibrium.mdeq_network import MDEQClassifier
    from deqzoo.models.equilibrium.module import DEQClassifierModule
    from deqzoo.models.equilibrium.mondeq_network import mondeq_conv, mondeq_fc
    from deqzoo.models.equilibrium.unbounded_network import DEQClassifier
    from deqzoo.models.flow.image_network import FlatFlow, ImageFlow, MultiscaleFlow, UNetFlow
    from deqzoo.models.graph.network import GraphCell, GraphConvolutionNetwork, ImplicitGraphNetwork
    from deqzoo.models.inverse.network import DeblurNetwork
    from deqzoo.models.language.network import ContractiveLanguageModel, LanguageModel
    from deqzoo.models.meta.cell_search_network import CellSearch
    from deqzoo.models.meta.data_cleaning_network import DataCleaner
    from deqzoo.models.meta.few_shot_network import FewShotNetwork
    from deqzoo.models.meta.learned_decay_network import DecayLearner
    from deqzoo.models.meta.learner import MetaLearner
    from deqzoo.models.ode.latent_ode_network import LatentODE
    from deqzoo.models.ode.module import ODEClassifierModule
    from deqzoo.models.ode.network import ODEClassifier, anode_net, ode_net, point_classifier
    from deqzoo.models.ode.series_classifier_network import GRUDClassifier, NeuralCDEClassifier
    from deqzoo.models.ode.stay_network import LatentODEClassifier
    from deqzoo.models.optimisation.network import SudokuConvNet, SudokuProgram
    from deqzoo.models.physics.orbit_network import HamiltonianOrbits, PlainOrbits
    from deqzoo.models.physics.pendulum_network import PendulumODE, PendulumPINN
    from deqzoo.models.picture.network import ImplicitPictures, SirenPictures
    from deqzoo.models.puzzle.maze_network import MazeLayers, MazePlanner
    from deqzoo.models.puzzle.sudoku_network import SudokuEquilibrium

_HOMES = {
    "CellSearch": "deqzoo.models.meta.cell_search_network",
    "Classifier": "deqzoo.models.common.classifier_module",
    "ContractiveLanguageModel": "deqzoo.models.language.network",
    "DEQClassifier": "deqzoo.models.equilibrium.unbounded_network",
    "DEQClassifierConfig": "deqzoo.models.equilibrium.config",
    "DEQClassifierModule": "deqzoo.models.equilibrium.module",
    "DataCleaner": "deqzoo.models.meta.data_cleaning_network",
    "DeblurNetwork": "deqzoo.models.inverse.network",
    "DecayLearner": "deqzoo.models.meta.learned_decay_network",
    "FewShotNetwork": "deqzoo.models.meta.few_shot_network",
    "FlatFlow": "deqzoo.models.flow.image_network",
    "GRUDClassifier": "deqzoo.models.ode.series_classifier_network",
    "GraphCell": "deqzoo.models.graph.network",
    "GraphConvolutionNetwork": "deqzoo.models.graph.network",
    "HamiltonianOrbits": "deqzoo.models.physics.orbit_network",
    "ImageClassifier": "deqzoo.models.common.image_classifier",
    "ImageFlow": "deqzoo.models.flow.image_network",
    "ImageInfo": "deqzoo.data.info",
    "ImplicitGraphNetwork": "deqzoo.models.graph.network",
    "ImplicitPictures": "deqzoo.models.picture.network",
    "LanguageModel": "deqzoo.models.language.network",
    "LatentODE": "deqzoo.models.ode.latent_ode_network",
    "LatentODEClassifier": "deqzoo.models.ode.stay_network",
    "MDEQClassifier": "deqzoo.models.equilibrium.mdeq_network",
    "MazeLayers": "deqzoo.models.puzzle.maze_network",
    "MazePlanner": "deqzoo.models.puzzle.maze_network",
    "MetaLearner": "deqzoo.models.meta.learner",
    "MultiscaleFlow": "deqzoo.models.flow.image_network",
    "NeuralCDEClassifier": "deqzoo.models.ode.series_classifier_network",
    "NonFiniteError": "deqzoo.models.common.finite",
    "ODEClassifier": "deqzoo.models.ode.network",
    "ODEClassifierModule": "deqzoo.models.ode.module",
    "PendulumODE": "deqzoo.models.physics.pendulum_network",
    "PendulumPINN": "deqzoo.models.physics.pendulum_network",
    "PlainOrbits": "deqzoo.models.physics.orbit_network",
    "PointInfo": "deqzoo.data.info",
    "SirenPictures": "deqzoo.models.picture.network",
    "SolverModule": "deqzoo.models.common.module",
    "SudokuConvNet": "deqzoo.models.optimisation.network",
    "SudokuEquilibrium": "deqzoo.models.puzzle.sudoku_network",
    "SudokuProgram": "deqzoo.models.optimisation.network",
    "UNetFlow": "deqzoo.models.flow.image_network",
    "anode_net": "deqzoo.models.ode.network",
    "build_network": "deqzoo.models.build",
    "contractive_net": "deqzoo.models.equilibrium.contractive_network",
    "conv_net": "deqzoo.models.equilibrium.explicit_network",
    "mondeq_conv": "deqzoo.models.equilibrium.mondeq_network",
    "mondeq_fc": "deqzoo.models.equilibrium.mondeq_network",
    "ode_net": "deqzoo.models.ode.network",
    "point_classifier": "deqzoo.models.ode.network",
    "residual_net": "deqzoo.models.equilibrium.explicit_network",
}

__all__ = [
    "CellSearch",
    "Classifier",
    "ContractiveLanguageModel",
    "DEQClassifier",
    "DEQClassifierConfig",
    "DEQClassifierModule",
    "DataCleaner",
    "DeblurNetwork",
    "DecayLearner",
    "FewShotNetwork",
    "FlatFlow",
    "GRUDClassifier",
    "GraphCell",
    "GraphConvolutionNetwork",
    "HamiltonianOrbits",
    "ImageClassifier",
    "ImageFlow",
    "ImageInfo",
    "ImplicitGraphNetwork",
    "ImplicitPictures",
    "LanguageModel",
    "LatentODE",
    "LatentODEClassifier",
    "MDEQClassifier",
    "MazeLayers",
    "MazePlanner",
    "MetaLearner",
    "MultiscaleFlow",
    "NeuralCDEClassifier",
    "NonFiniteError",
    "ODEClassifier",
    "ODEClassifierModule",
    "PendulumODE",
    "PendulumPINN",
    "PlainOrbits",
    "PointInfo",
    "SirenPictures",
    "SolverModule",
    "SudokuConvNet",
    "SudokuEquilibrium",
    "SudokuProgram",
    "UNetFlow",
    "anode_net",
    "build_network",
    "contractive_net",
    "conv_net",
    "mondeq_conv",
    "mondeq_fc",
    "ode_net",
    "point_classifier",
    "residual_net",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: a network is built and loaded without Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deqzoo.models' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
