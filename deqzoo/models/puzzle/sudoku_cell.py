"""The function whose fixed point is the solution of a Sudoku."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deqzoo.implicit.sending import send


class SudokuCell(nn.Module):
    r"""z -> normalised(z + a + W3 relu(W2 z + b + messages)): one round of talk between the cells of a puzzle.

    A state z is (B, side, side, K, width): K = side states in each cell of the puzzle, one for each digit, whose
    weights are shared, or K = 1. With m = relu(W1 z), each state is told, by a matrix each, the sums of m over its row
    and over its column (the same matrix), over its box, over the parts of its row and of its column that lie in its
    box, and over all digits of its cell. So what the network does is the same when digits are renamed, rows or columns
    moved, or the puzzle transposed. a and b tell what is given.

    The map is no contraction, and is free to have several fixed points; its images are normalised, so bounded.

    Args:
        side: cells of a row: 4 or 9.
        width: features of a state.
        hidden: rows of W2.
        digit_symmetry: False: K = 1, and weights of each digit's own (a in place of sums over digits).

    Source: the sums are those of Palm et al., "Recurrent Relational Networks", 2018, without a network for each pair.

    >>> cell = SudokuCell(4, width=8, hidden=16)
    >>> x = cell.inject(torch.zeros(2, 4, 4, dtype=torch.long))
    >>> cell(cell.initial_state(x), x).shape
    torch.Size([2, 4, 4, 4, 8])
    """

    def __init__(self, side: int, *, width: int = 24, hidden: int = 48, digit_symmetry: bool = True) -> None:
        super().__init__()
        self.side, self.box, self.width, self.hidden = side, math.isqrt(side), width, hidden
        if self.box**2 != side or side < 4:
            raise ValueError(f"side must be a square, at least 4; got {side}")
        if width < 2 or hidden < 1:
            raise ValueError(f"width must be at least 2 and hidden at least 1, got {width} and {hidden}")
        self.digit_symmetry = digit_symmetry
        # What is known of a state: nothing, that this digit is given, that another one is; without symmetry, the digit.
        self.given = nn.Embedding(3 if digit_symmetry else side + 1, width + hidden)
        self.message = nn.Linear(width, width)
        self.own = nn.Linear(width, hidden)
        units = ("line", "box", "part", "cell") if digit_symmetry else ("line", "box", "part")
        self.units = nn.ParameterDict({unit: torch.empty(width, hidden) for unit in units})
        for matrix in self.units.values():
            nn.init.normal_(matrix, std=0.5 / math.sqrt(width))
        self.out = nn.Linear(hidden, width)
        nn.init.uniform_(self.out.weight, -0.5 / math.sqrt(hidden), 0.5 / math.sqrt(hidden))

    def inject(self, puzzles: Tensor) -> tuple[Tensor, Tensor]:
        """a (B, side, side, K, width) and b (B, side, side, K, hidden) of puzzles (B, side, side)."""
        known = puzzles.unsqueeze(-1)
        if self.digit_symmetry:
            digits = torch.arange(1, self.side + 1, device=puzzles.device)
            known = torch.where(known == 0, 0, torch.where(known == digits, 1, 2))
        a, b = self.given(known).split([self.width, self.hidden], -1)
        return a.contiguous(), b.contiguous()

    def initial_state(self, x: tuple[Tensor, Tensor], random: torch.Generator | None = None) -> Tensor:
        """Normalised noise: without it the states of two digits that nothing is known of would stay the same.

        Args:
            x: as `inject` gives it.
            random: the noise is drawn from it, once, for all puzzles of the batch; None: for each of them, from
                torch's own generator.
        """
        a = x[0]
        shape = a.shape if random is None else a.shape[1:]
        noise = torch.randn(shape, generator=random, device=None if random else a.device)
        noise = send(noise.to(a.dtype), a.device)
        return F.layer_norm(noise, (self.width,)).expand_as(a)

    def forward(self, z: Tensor, x: tuple[Tensor, Tensor]) -> Tensor:
        """The next state (B, side, side, K, width); ``x`` is what `inject` gives."""
        a, b = x
        z = z.contiguous()
        talk = self.own(z) + b + self._heard(F.relu(self.message(z))).view_as(b)
        return F.layer_norm(z + a + self.out(F.relu(talk)), (self.width,))

    def _heard(self, m: Tensor) -> Tensor:
        """What each state is told, (B, box, box, box, box, K, hidden): band, row in it, stack, column in it."""
        batch, n, b, k, units = len(m), self.side, self.box, m.shape[3], self.units
        w, h = self.width, self.hidden
        row_parts = m.view(batch, n, b, b, k, w).sum(3)  # (B, row, stack, K, width)
        column_parts = m.view(batch, b, b, n, k, w).sum(2)  # (B, band, column, K, width)
        rows = row_parts.sum(2) @ units["line"]
        columns = column_parts.sum(1) @ units["line"]
        boxes = row_parts.view(batch, b, b, b, k, w).sum(2) @ units["box"]
        along_rows = (
            (row_parts @ units["part"]).view(batch, b, b, b, 1, k, h)
            + rows.view(batch, b, b, 1, 1, k, h)
            + boxes.view(batch, b, 1, b, 1, k, h)
        )
        along_columns = (column_parts @ units["part"] + columns.unsqueeze(1)).view(batch, b, 1, b, b, k, h)
        heard = along_rows + along_columns
        if self.digit_symmetry:
            heard = heard + (m.sum(3) @ units["cell"]).view(batch, b, b, b, b, 1, h)
        return heard
