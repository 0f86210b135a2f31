"""Layers and networks on the implicit core: `DEQ` around any cell, `NeuralODE` around any dynamics, and networks."""

from .adaptation import IMAML, MAML, Adaptation, FirstOrderMAML
from .adjacency import Adjacency, normalized_adjacency, perron_frobenius, propagate
from .cells import ConvCell, PlainConvCell
from .classifier import DEQClassifier
from .contractive import ContractiveCell, ContractiveConvCell, ContractiveLinearCell
from .contractive_attention import AttentionInjection, AttentionInput, ContractiveAttentionCell
from .contractive_classifier import contractive_net
from .data_cleaning import DataCleaner
from .deq import DEQ
from .divergence import DensityDynamics
from .dynamics import BottleneckDynamics, ConvDynamics, MLPDynamics
from .few_shot import FewShotNetwork
from .flow import ContinuousFlow, FlowODE
from .graph import GraphCell, GraphConvolutionNetwork, ImplicitGraphNetwork
from .image_classifier import ImageClassifier, conv_net, residual_net
from .image_flow import FlatFlow, ImageFlow, MultiscaleFlow, UNetFlow
from .language_model import ContractiveLanguageModel, LanguageModel
from .latent_ode import LatentODE
from .layer import SolverLayer, solver_layers, use_solver
from .mdeq import MDEQCell
from .mdeq_classifier import MDEQClassifier
from .meta_learner import MetaLearner
from .mondeq import MonDEQ, mondeq_conv, mondeq_fc
from .monotone import MonotoneCell, MonotoneLinear
from .monotone_conv import MonotoneConv2d
from .ode import NeuralODE
from .ode_classifier import ODEClassifier, anode_net, ode_net, point_classifier
from .pendulum import PendulumODE, PendulumPINN
from .squash import ConcatSquashNet, squash_conv_net, squash_mlp
from .transformer import TransformerCell
from .unet import UNet
from .vocabulary import Vocabulary

__all__ = [
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
    "ContractiveLanguageModel",
    "ContractiveLinearCell",
    "ConvCell",
    "ConvDynamics",
    "DEQClassifier",
    "DataCleaner",
    "DensityDynamics",
    "FewShotNetwork",
    "FirstOrderMAML",
    "FlatFlow",
    "FlowODE",
    "GraphCell",
    "GraphConvolutionNetwork",
    "ImageClassifier",
    "ImageFlow",
    "ImplicitGraphNetwork",
    "LanguageModel",
    "LatentODE",
    "MDEQCell",
    "MDEQClassifier",
    "MLPDynamics",
    "MetaLearner",
    "MonDEQ",
    "MonotoneCell",
    "MonotoneConv2d",
    "MonotoneLinear",
    "MultiscaleFlow",
    "NeuralODE",
    "ODEClassifier",
    "PendulumODE",
    "PendulumPINN",
    "PlainConvCell",
    "SolverLayer",
    "TransformerCell",
    "UNet",
    "UNetFlow",
    "Vocabulary",
    "anode_net",
    "contractive_net",
    "conv_net",
    "mondeq_conv",
    "mondeq_fc",
    "normalized_adjacency",
    "ode_net",
    "perron_frobenius",
    "point_classifier",
    "propagate",
    "residual_net",
    "solver_layers",
    "squash_conv_net",
    "squash_mlp",
    "use_solver",
]
