"""The function whose fixed point shows the shortest paths of a maze."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WALL, FREE, START, GOAL = range(4)  # what the cells of a maze are


class MazeCell(nn.Module):
    r"""z -> normalised(z + a + W3 relu(W2 z + b + heard)): one round of talk between the neighbours in a maze.

    A state z is (B, height, width, features), 0 in walls. Each cell is told, by a matrix, the sum of m = relu(W1 z)
    over its four neighbours, of which walls say nothing: a convolution with a kernel in the shape of a cross, whose
    four arms are the same. So what the network does is the same when a maze is turned or mirrored, and a maze of any
    height and width will do. a and b tell whether a cell is the start, the goal, or neither.

    The map is no contraction; its images are normalised, so bounded.

    Args:
        width: features of a state.
        hidden: rows of W2.

    Source: z + a, the maze told anew in each step, is the recall of Bansal et al., "End-to-end Algorithm Synthesis
    with Recurrent Networks", 2022.

    >>> cell = MazeCell(width=8, hidden=16)
    >>> x = cell.inject(torch.ones(2, 7, 9, dtype=torch.long))
    >>> cell(cell.initial_state(x), x).shape
    torch.Size([2, 7, 9, 8])
    """

    def __init__(self, *, width: int = 24, hidden: int = 48) -> None:
        super().__init__()
        self.width, self.hidden = width, hidden
        if width < 2 or hidden < 1:
            raise ValueError(f"width must be at least 2 and hidden at least 1, got {width} and {hidden}")
        self.given = nn.Embedding(4, width + hidden)
        self.message = nn.Linear(width, width)
        self.own = nn.Linear(width, hidden)
        self.heard = nn.Linear(width, hidden, bias=False)
        nn.init.normal_(self.heard.weight, std=0.5 / math.sqrt(width))
        self.out = nn.Linear(hidden, width)
        nn.init.uniform_(self.out.weight, -0.5 / math.sqrt(hidden), 0.5 / math.sqrt(hidden))

    def inject(self, mazes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """a (B, height, width, features), b, and 1 in each cell that is no wall, (B, height, width, 1)."""
        a, b = self.given(mazes).split([self.width, self.hidden], -1)
        return a.contiguous(), b.contiguous(), (mazes != WALL).to(a.dtype).unsqueeze(-1)

    def initial_state(self, x: tuple[Tensor, Tensor, Tensor], random: torch.Generator | None = None) -> Tensor:
        """Zeros: nothing is known, and what is found spreads from start and goal. So each maze has one answer."""
        return torch.zeros_like(x[0])

    def forward(self, z: Tensor, x: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """The next state (B, height, width, features); ``x`` is what `inject` gives."""
        a, b, free = x
        m = F.pad(F.relu(self.message(z)) * free, (0, 0, 1, 1, 1, 1))
        near = m[:, :-2, 1:-1] + m[:, 2:, 1:-1] + m[:, 1:-1, :-2] + m[:, 1:-1, 2:]
        talk = F.relu(self.own(z) + b + self.heard(near))
        return F.layer_norm(z + a + self.out(talk), (self.width,)) * free
