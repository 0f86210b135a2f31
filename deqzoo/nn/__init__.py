"""Layers on the implicit core: `DEQ` around any cell, `NeuralODE` around any dynamics, and cells and dynamics.
`ProgramLayer` is a quadratic program with learned constraints.

Whole networks of them are in `deqzoo.models`.
"""

from .adaptation import IMAML, MAML, Adaptation, FirstOrderMAML
from .adjacency import Adjacency, normalized_adjacency, perron_frobenius, propagate
from .cells import CELLS, ConvCell, PlainConvCell, make_cell
from .contractive import ContractiveCell, ContractiveConvCell, ContractiveLinearCell
from .contractive_attention import AttentionInjection, AttentionInput, ContractiveAttentionCell
from .deq import DEQ
from .divergence import DensityDynamics
from .dynamics import BottleneckDynamics, ConvDynamics, MLPDynamics
from .exporting import fixed_steps
from .flow import ContinuousFlow, FlowODE
from .hamiltonian import Hamiltonian, HamiltonianODE, SeparableHamiltonian
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
    "MonDEQ",
    "MonotoneCell",
    "MonotoneConv2d",
    "MonotoneLinear",
    "NeuralODE",
    "PlainConvCell",
    "ProgramLayer",
    "SeparableHamiltonian",
    "SolverLayer",
    "TransformerCell",
    "UNet",
    "fixed_steps",
    "make_cell",
    "normalized_adjacency",
    "perron_frobenius",
    "propagate",
    "solver_layers",
    "squash_conv_net",
    "squash_mlp",
    "use_solver",
]
