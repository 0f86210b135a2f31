"""Layers and networks on the implicit core: `DEQ` around any cell, cells, image classifiers."""

from .cells import ConvCell
from .classifier import DEQClassifier
from .deq import DEQ

__all__ = ["DEQ", "ConvCell", "DEQClassifier"]
