"""Kinds of models: their settings, their LightningModules, and the way from a recipe to a network.

``config.py`` has the settings of each kind, ``kinds.py`` the table of kinds and the questions that each answers;
``module.py`` trains any network with solver layers, ``classifier.py`` classifiers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqzoo.data.info import ImageInfo, PointInfo
    from deqzoo.models.classifier import Classifier, DEQClassifierModule, ODEClassifierModule
    from deqzoo.models.finite import NonFiniteError
    from deqzoo.models.kinds import build_network
    from deqzoo.models.module import SolverModule

_HOMES = {
    "Classifier": "deqzoo.models.classifier",
    "DEQClassifierModule": "deqzoo.models.classifier",
    "ImageInfo": "deqzoo.data.info",
    "NonFiniteError": "deqzoo.models.finite",
    "ODEClassifierModule": "deqzoo.models.classifier",
    "PointInfo": "deqzoo.data.info",
    "SolverModule": "deqzoo.models.module",
    "build_network": "deqzoo.models.kinds",
}

__all__ = [
    "Classifier",
    "DEQClassifierModule",
    "ImageInfo",
    "NonFiniteError",
    "ODEClassifierModule",
    "PointInfo",
    "SolverModule",
    "build_network",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: a network is built and loaded without Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deqzoo.models' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
