"""Layers on the implicit core: `DEQ` around any cell, `NeuralODE` around any dynamics, `NeuralCDE`
around any field and path, and cells and dynamics.
`ProgramLayer` is a quadratic program with learned constraints.

Whole networks of them are in `deqzoo.models`.
"""

from .adaptation import IMAML, MAML, Adaptation, FirstOrderMAML
from .adjacency import Adjacency, normalized_adjacency, perron_frobenius, propagate
from .cde import NeuralCDE
from .cells import CELLS, ConvCell, PlainConvCell, make_cell
from .contractive import ContractiveCell, ContractiveConvCell, ContractiveLinearCell
from .contractive_attention import AttentionInjection, AttentionInput, ContractiveAttentionCell
from .deq import DEQ
from .divergence import DensityDynamics
from .dynamics import BottleneckDynamics, ConvDynamics, MLPDynamics, MLPVectorField
from .exporting import fixed_steps
from .flow import ContinuousFlow, FlowODE
from .hamiltonian import Hamiltonian, HamiltonianODE, SeparableHamiltonian
from .interpolation import (
    INTERPOLATIONS,
    PiecewisePolynomial,
    hermite_cubic,
    natural_cubic,
    piecewise_linear,
    rectilinear,
)
from .layer import SolverLayer, solver_layers, use_solver
from .mdeq import MDEQCell
from .mondeq import MonDEQ
from .monotone import MonotoneCell, MonotoneLinear
from .monotone_conv import MonotoneConv2d
from .ode import NeuralODE
from .program import ProgramLayer
from .squash import ConcatSquashNet, squash_conv_net, squash_mlp
from .transformer import TransformerCell
from .unet import UNet

__all__ = [
    "CELLS",
    "DEQ",
    "IMAML",
    "INTERPOLATIONS",
    "MAML",
    "Adaptation",
    "Adjacency",
    "AttentionInjection",
    "AttentionInput",
    "BottleneckDynamics",
    "ConcatSquashNet",
    "ContinuousFlow",
    "ContractiveAttentionCell",
    "ContractiveCell",
    "ContractiveConvCell",
    "ContractiveLinearCell",
    "ConvCell",
    "ConvDynamics",
    "DensityDynamics",
    "FirstOrderMAML",
    "FlowODE",
    "Hamiltonian",
    "HamiltonianODE",
    "MDEQCell",
    "MLPDynamics",
    "MLPVectorField",
    "MonDEQ",
    "MonotoneCell",
    "MonotoneConv2d",
    "MonotoneLinear",
    "NeuralCDE",
    "NeuralODE",
    "PiecewisePolynomial",
    "PlainConvCell",
    "ProgramLayer",
    "SeparableHamiltonian",
    "SolverLayer",
    "TransformerCell",
    "UNet",
    "fixed_steps",
    "hermite_cubic",
    "make_cell",
    "natural_cubic",
    "normalized_adjacency",
    "perron_frobenius",
    "piecewise_linear",
    "propagate",
    "rectilinear",
    "solver_layers",
    "squash_conv_net",
    "squash_mlp",
    "use_solver",
]
