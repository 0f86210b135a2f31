"""Layers and networks on the implicit core: `DEQ` around any cell, `NeuralODE` around any dynamics, classifiers."""

from .cells import ConvCell
from .classifier import DEQClassifier
from .deq import DEQ, use_unrolled
from .dynamics import BottleneckDynamics, ConvDynamics, MLPDynamics
from .latent_ode import LatentODE
from .layer import SolverLayer, solver_layers, use_solver
from .mdeq import MDEQCell
from .mdeq_classifier import MDEQClassifier
from .ode import NeuralODE
from .ode_classifier import ODEClassifier, anode_net, ode_net, point_classifier
from .pendulum import PendulumODE, PendulumPINN

__all__ = [
    "DEQ",
    "BottleneckDynamics",
    "ConvCell",
    "ConvDynamics",
    "DEQClassifier",
    "LatentODE",
    "MDEQCell",
    "MDEQClassifier",
    "MLPDynamics",
    "NeuralODE",
    "ODEClassifier",
    "PendulumODE",
    "PendulumPINN",
    "SolverLayer",
    "anode_net",
    "ode_net",
    "point_classifier",
    "solver_layers",
    "use_solver",
    "use_unrolled",
]
