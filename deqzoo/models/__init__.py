"""LightningModules, one a family, and the way from a recipe to a network.

``build.py`` builds networks from typed settings; ``classifier.py`` trains them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqzoo.models.build import ImageInfo, build_network
    from deqzoo.models.classifier import Classifier
    from deqzoo.models.finite import NonFiniteError

_HOMES = {
    "Classifier": "deqzoo.models.classifier",
    "ImageInfo": "deqzoo.models.build",
    "NonFiniteError": "deqzoo.models.finite",
    "build_network": "deqzoo.models.build",
}

__all__ = ["Classifier", "ImageInfo", "NonFiniteError", "build_network"]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: a network is built and loaded without Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deqzoo.models' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
