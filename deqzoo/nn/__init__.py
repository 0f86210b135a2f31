"""Layers and networks on the implicit core: `DEQ` around any cell, `NeuralODE` around any dynamics, classifiers."""

from .cells import ConvCell
from .classifier import DEQClassifier
from .deq import DEQ
from .dynamics import BottleneckDynamics, ConvDynamics, MLPDynamics
from .image_classifier import ImageClassifier, conv_net
from .latent_ode import LatentODE
from .layer import SolverLayer, solver_layers, use_solver
from .mondeq import MonDEQ, mondeq_conv, mondeq_fc
from .monotone import MonotoneCell, MonotoneLinear
from .monotone_conv import MonotoneConv2d
from .ode import NeuralODE
from .ode_classifier import ODEClassifier, anode_net, ode_net, point_classifier
from .pendulum import PendulumODE, PendulumPINN

__all__ = [
    "DEQ",
    "BottleneckDynamics",
    "ConvCell",
    "ConvDynamics",
    "DEQClassifier",
    "ImageClassifier",
    "LatentODE",
    "MLPDynamics",
    "MonDEQ",
    "MonotoneCell",
    "MonotoneConv2d",
    "MonotoneLinear",
    "NeuralODE",
    "ODEClassifier",
    "PendulumODE",
    "PendulumPINN",
    "SolverLayer",
    "anode_net",
    "conv_net",
    "mondeq_conv",
    "mondeq_fc",
    "ode_net",
    "point_classifier",
    "solver_layers",
    "use_solver",
]
