"""What the recipes of classifiers of nodes may say; imports no torch."""

from dataclasses import dataclass

from deqzoo.models.common.config import ClassifierTraining, FixedPointConfig


@dataclass
class ImplicitGraphConfig(FixedPointConfig, ClassifierTraining):
    """A classifier of nodes by an equilibrium (`deqzoo.models.ImplicitGraphNetwork`) and how it is trained."""

    kind: str = "implicit_graph"
    # The network.
    hidden: int = 16  # features of a state
    kappa: float = 0.99  # below 1: how near to losing its well-posedness the equilibrium may come
    # Beside it.
    baseline: str | None = None  # a trained entry for the same data, to compare with in the card


@dataclass
class GraphConvolutionConfig(ClassifierTraining):
    """A classifier of nodes by graph convolutions (`deqzoo.models.GraphConvolutionNetwork`) and how it is trained."""

    kind: str = "graph_convolution"
    hidden: int = 16  # features of a state
    depth: int = 2  # convolutions
