"""Networks on graphs: the implicit graph network, whose states are an equilibrium, and graph convolutions.

Both take the features of all nodes (N, in_features) and edges (2, E), and give logits (N, classes). Several graphs are
one graph with several components: the equilibrium is one system over all nodes, solved to a joint tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqzoo.implicit import EquationAdjoint, FixedPointSolver
from deqzoo.models.common.head import ClassifierNetwork
from deqzoo.nn.adjacency import Adjacency, normalized_adjacency, propagate
from deqzoo.nn.deq import DEQ
from deqzoo.nn.tensors import check_tensor


def check_features(features: Tensor, width: int) -> None:
    """An error names what the features of nodes must be: a tensor (N, width)."""
    check_tensor("features", features)
    if features.dim() != 2 or features.shape[1] != width:
        raise ValueError(f"features must be (nodes, {width}), got {tuple(features.shape)}")


def project_rows(matrix: Tensor, radius: float) -> Tensor:
    """The nearest matrix with ||W||_inf <= radius: each row by itself onto the l1 ball, by sorting.

    A row w outside becomes sign(w) max(|w| - t, 0), with the t >= 0 for which its l1 norm is the radius.

    Source: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", 2008.

    >>> project_rows(torch.tensor([[3.0, -1.0], [0.2, 0.3]]), 1.0)
    tensor([[1.0000, -0.0000],
            [0.2000, 0.3000]])
    """
    if not radius > 0:
        raise ValueError(f"the radius must be positive, got {radius}")
    ordered = matrix.abs().double().sort(dim=1, descending=True).values  # float32 would lose the radius beside 1e8
    excess = ordered.cumsum(1) - radius
    count = torch.arange(1, matrix.shape[1] + 1, dtype=ordered.dtype, device=matrix.device)
    support = (count * ordered > excess).sum(1, keepdim=True).clamp(min=1)  # how many entries stay
    threshold = (excess.gather(1, support - 1) / support).clamp(min=0)
    return matrix.sign() * (matrix.abs() - threshold).clamp(min=0).to(matrix.dtype)


class GraphCell(nn.Module):
    r"""X -> relu(W X A + B), for states X (features, nodes), an injection B of the same shape, and an adjacency A.

    Tensors have a node a row: here X is (nodes, features), and the product is A^T X W^T.

    It is well posed, so that there is one fixed point whatever B is, where ||W||_inf lambda_pf(A) < 1: in a norm
    max_ij |X_ij| / v_ij, v > 0, the map contracts. `project` keeps it so.

    Args:
        features: of a node's state.
        kappa: below 1: bounds ||W||_inf lambda_pf(A).

    W starts at kappa I: each feature is handed on as it is.

    Source: Gu, Chang, Zhu, Sojoudi, El Ghaoui, "Implicit Graph Neural Networks", 2020.

    >>> adjacency = normalized_adjacency(torch.tensor([[0], [1]]), nodes=2)
    >>> GraphCell(1, kappa=0.5)(torch.ones(2, 1), (torch.zeros(2, 1), adjacency)).detach().flatten()
    tensor([0.3536, 0.6036])
    """

    def __init__(self, features: int, kappa: float = 0.99) -> None:
        super().__init__()
        if not 0 < kappa < 1:
            raise ValueError(f"kappa must lie in (0, 1), got {kappa}")
        self.kappa = kappa
        self.weight = nn.Parameter(kappa * torch.eye(features))

    def initial_state(self, inputs: tuple[Tensor, Adjacency]) -> Tensor:
        """Zeros in at least float32."""
        return torch.zeros_like(inputs[0], dtype=torch.promote_types(inputs[0].dtype, torch.float32))

    def forward(self, x: Tensor, inputs: tuple[Tensor, Adjacency]) -> Tensor:
        """The next states (nodes, features); ``inputs`` are the injection, of that shape, and the adjacency."""
        injection, adjacency = inputs
        return torch.relu(propagate(x, adjacency) @ self.weight.T + injection)

    @torch.no_grad()
    def project(self, eigenvalue: float = 1.0) -> None:
        """Move W to the nearest one with ||W||_inf <= kappa / eigenvalue, to be called after each step of an optimiser.

        ``eigenvalue`` is lambda_pf(A) or above: 1 for `normalized_adjacency`, else see `perron_frobenius`.
        """
        if eigenvalue > 0:  # without a cycle of edges any W will do
            self.weight.copy_(project_rows(self.weight, self.kappa / eigenvalue))


class ImplicitGraphNetwork(ClassifierNetwork):
    """Classifies nodes by the equilibrium of a graph: X = relu(W X A + Omega U), logits = V X + c.

    A is `normalized_adjacency`, under which the network is well posed on every graph. What a node knows reaches all
    that it has a path to, however long.

    Args:
        in_features: of a node, the columns of U.
        classes: names of the classes.
        hidden: features of a state.
        kappa: see `GraphCell`. Along a chain a signal keeps at most kappa / (2 - kappa) of its size from node to node.
        solver, adjoint: see `DEQ`; all of X is one system.

    >>> model = ImplicitGraphNetwork(3, ["a", "b"])
    >>> model(torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])).shape
    torch.Size([4, 2])
    """

    def __init__(
        self,
        in_features: int,
        classes: Sequence[str],
        *,
        hidden: int = 16,
        kappa: float = 0.99,
        solver: FixedPointSolver | None = None,
        adjoint: EquationAdjoint | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.injection = nn.Linear(in_features, hidden, bias=False)
        self.deq = DEQ(GraphCell(hidden, kappa), solver=solver, adjoint=adjoint, batch_dims=0)
        self.head = nn.Linear(hidden, len(self.classes))

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Logits (nodes, classes)."""
        check_features(features, self.injection.in_features)
        adjacency = normalized_adjacency(edges, len(features), features.dtype)
        return self.head(self.deq((self.injection(features), adjacency)))

    def project(self) -> None:
        """Keep the equilibrium well posed: see `GraphCell.project`."""
        self.deq.cell.project()


class GraphConvolutionNetwork(ClassifierNetwork):
    """Classifies nodes by ``depth`` graph convolutions, X <- relu(A^T X W_k^T + b_k), and a linear head.

    What a node knows reaches those at most ``depth`` hops away.

    Args:
        in_features, classes, hidden: as `ImplicitGraphNetwork` has them.
        depth: convolutions.

    Source: Kipf, Welling, "Semi-Supervised Classification with Graph Convolutional Networks", 2017.

    >>> model = GraphConvolutionNetwork(3, ["a", "b"], depth=2)
    >>> model(torch.randn(4, 3), torch.tensor([[0, 1, 2], [1, 2, 3]])).shape
    torch.Size([4, 2])
    """

    def __init__(self, in_features: int, classes: Sequence[str], *, hidden: int = 16, depth: int = 2) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.classes, self.in_features = tuple(classes), in_features
        self.convolutions = nn.ModuleList(nn.Linear(hidden if i else in_features, hidden) for i in range(depth))
        self.head = nn.Linear(hidden, len(self.classes))

    def forward(self, features: Tensor, edges: Tensor) -> Tensor:
        """Logits (nodes, classes)."""
        check_features(features, self.in_features)
        adjacency = normalized_adjacency(edges, len(features), features.dtype)
        x = features
        for convolution in self.convolutions:
            x = torch.relu(propagate(convolution(x), adjacency))
        return self.head(x)
