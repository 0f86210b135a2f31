"""Value iteration in a maze: a map whose fixed point says how good it is to be in each cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WALL, FREE, START, GOAL = range(4)  # what the cells of a maze are
SHARPNESS = 5.0  # kernels are softmax(5 theta), and theta is learned as fast as the other weights
LEAN = 0.6  # by how much, in theta, an action is drawn to one cell at first: it goes there at .7
FIRST = 1, 0, 4  # to which of the 3 x 3 cells, counted row by row: up, diagonally, nowhere
LEAST = 0.01  # of the most that a cell earns; what is to earn less earns nothing, so that all values come from the goal
OPEN = 2.0  # o at first: values come far from the beginning
TURNS = 4


class ValueIteration(nn.Module):
    r"""V -> r + discount max_a g_a (P_a * V): one step of value iteration of a learned decision process.

    A state V is a value for each cell, (B, 1, height, width). An action a leads from a cell to the 3 x 3 cells around
    it with probabilities P_a, a kernel that is the same everywhere; g_a in (0, 1) says of each cell whether it works
    there, r >= 0 what the cell earns:

        g_a = sigmoid(o_a + w_a),   r = max(min(exp(e - m), 1) - .01, 0),   m the largest e of a cell that is no wall,

    where o, w and e are read off the 3 x 3 cells around, by a hidden layer; beyond its edges a maze has walls. Values
    count by their ratios alone, so what the best cell earns may be the same always; a cell that earns a hundredth of it
    or less earns nothing, else far from the goal its own little would be all.

    Learned are P, g and r. What walls and the goal are, and what works, is not told: built in are that all is local and
    the same everywhere, the maximum, the discount, and that a maze that is turned is the same maze: each action comes
    in four directions, whose kernels and gates are those of the first, turned by quarters, and e is the mean of what
    is read off in the four. At first the actions lead to a neighbour, diagonally, and nowhere, more or less.

    In the maximum norm the map contracts by the discount: |max_a u_a - max_a v_a| <= max_a |u_a - v_a|, g <= 1, and P_a
    has entries >= 0 of sum 1. So in a maze of any size there is one fixed point, to which plain iteration leads from
    any start. From zeros the values grow, V_0 <= V_1 <= ... <= V*, as the map is monotone.

    Args:
        actions: how many there are, in four directions each; at least 3 for all of the cells around to be tried.
        hidden: channels of the hidden layer, for each direction.
        discount: in (0, 1).

    Source: Tamar et al., "Value Iteration Networks", 2016; through the fixed point: Zhao, Xu, Wong, "Scaling up and
    Stabilizing Differentiable Planning with Implicit Differentiation", 2023; turned: Zhao, Zhu, Kong, Walters, Wong,
    "Integrating Symmetry into Differentiable Planning with Steerable Convolutions", 2023. There rewards alone are read
    off the map; g is added: a wall can be where no action works.

    >>> cell = ValueIteration(actions=2, hidden=8)
    >>> x = cell.inject(torch.ones(2, 7, 9, dtype=torch.long))
    >>> cell(cell.initial_state(x), x).shape, cell.lipschitz()
    (torch.Size([2, 1, 7, 9]), 0.99)
    """

    def __init__(self, *, actions: int = 3, hidden: int = 16, discount: float = 0.99) -> None:
        super().__init__()
        if actions < 1 or hidden < 1:
            raise ValueError(f"actions and hidden must be at least 1, got {actions} and {hidden}")
        if not 0 < discount < 1:
            raise ValueError(f"discount must lie in (0, 1), got {discount}")
        self.actions, self.discount = actions, discount
        self.kernels = nn.Parameter(0.04 * torch.randn(actions, 3, 3))
        with torch.no_grad():  # drawn at random alone, no action may come to lead one way, and three ways are a plateau
            lean = torch.eye(9)[[FIRST[action % len(FIRST)] for action in range(actions)]]
            self.kernels.add_(LEAN * lean.view_as(self.kernels))
        self.look = nn.Conv2d(4, hidden, 3)
        self.tell = nn.Conv2d(hidden, 2 + actions, 1)
        nn.init.constant_(self.tell.bias[0], OPEN)  # type: ignore[index]
        nn.init.zeros_(self.tell.weight[1])  # at first all cells earn 1
        nn.init.zeros_(self.tell.bias[1])  # type: ignore[index]

    def inject(self, mazes: Tensor) -> tuple[Tensor, Tensor]:
        """g (B, 4 actions, height, width) and r (B, 1, height, width) of mazes (B, height, width)."""
        seen = F.one_hot(F.pad(mazes, (1, 1, 1, 1), value=WALL), 4).movedim(-1, 1).to(self.kernels.dtype)
        bias = self.look.bias.repeat(TURNS)  # type: ignore[union-attr]
        found = F.relu(F.conv2d(seen, turned(self.look.weight), bias)).unflatten(1, (TURNS, -1))
        told = self.tell(found.flatten(0, 1)).unflatten(0, found.shape[:2])  # (B, 4, 2 + actions, height, width)
        opens, earns, works = told.split([1, 1, self.actions], 2)
        earns = earns.mean(1)
        most = earns.masked_fill((mazes == WALL).unsqueeze(1), -torch.inf).amax((1, 2, 3), keepdim=True)
        return (opens + works).sigmoid().flatten(1, 2), F.relu((earns - most).clamp(max=0).exp() - LEAST)

    def initial_state(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """Zeros."""
        return torch.zeros_like(x[1])

    def probabilities(self) -> Tensor:
        """P, (4 actions, 3, 3): all actions of the first direction, then those turned by a quarter to the left, ..."""
        return turned((SHARPNESS * self.kernels).flatten(1).softmax(1).view_as(self.kernels))

    def of_actions(self, z: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        """The value of each action (B, 4 actions, height, width), if what follows has the values ``z``."""
        works, earns = x
        ahead = F.conv2d(z, self.probabilities().unsqueeze(1), padding=1)
        return self.discount * works * ahead + earns

    def forward(self, z: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        """The next values (B, 1, height, width); ``x`` is what `inject` gives."""
        return self.of_actions(z, x).amax(1, keepdim=True)

    def lipschitz(self) -> float:
        """The discount, a Lipschitz constant in the maximum norm."""
        return self.discount


def turned(kernels: Tensor) -> Tensor:
    """Kernels (n, ..., 3, 3), and those turned to the left by one, two and three quarters: (4 n, ..., 3, 3).

    >>> up = torch.zeros(1, 3, 3)
    >>> up[0, 0, 1] = 1
    >>> turned(up).flatten(1).argmax(1).tolist()  # up, left, down, right
    [1, 3, 7, 5]
    """
    return torch.cat([torch.rot90(kernels, turn, (-2, -1)) for turn in range(TURNS)])
