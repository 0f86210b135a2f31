"""Moves in mazes: which ones are optimal, and where one comes by following them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from deqzoo.data.maze_generator import distances
from deqzoo.models.puzzle.maze_cell import GOAL, START, WALL

MOVES = (-1, 0), (1, 0), (0, -1), (0, 1)  # up, down, left, right


def optimal_moves(mazes: Tensor) -> Tensor:
    """Whether a move brings one a step nearer to the goal, (B, 4, height, width), of mazes (B, height, width).

    Of walls, of the goal, and of cells from which there is no way to it, no move does. Of other cells several may.

    >>> optimal_moves(torch.tensor([[[2, 1, 3]]])).nonzero()[:, 1:].tolist()  # move, row, column: right, twice
    [[3, 0, 0], [3, 0, 1]]
    """
    cells = mazes.cpu().numpy()
    steps = torch.from_numpy(distances(cells != WALL, np.argwhere(cells == GOAL)[:, 1:])).to(mazes.device)
    height, width = mazes.shape[1:]
    around = torch.nn.functional.pad(steps, (1, 1, 1, 1), value=-1)
    beside = [around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width] for down, right in MOVES]
    return torch.stack([(near == steps - 1) & (steps > 0) for near in beside], 1)


def moves_right(scores: Tensor, optimal: Tensor) -> Tensor:
    """Whether the move of highest score is optimal, (B, height, width)."""
    return optimal.gather(1, scores.argmax(1, keepdim=True)).squeeze(1)


def follow(moves: Tensor, mazes: Tensor) -> tuple[Tensor, Tensor]:
    """Follow moves (B, height, width) from the start: the cells one visits (B, height, width), and whether one arrives.

    One stops at the goal, before a wall or the edge, and where one has been before.

    >>> mazes = torch.tensor([[[2, 1, 3]]])
    >>> [follow(torch.tensor([[moves]]), mazes)[1].item() for moves in ([3, 3, 0], [3, 2, 0])]
    [True, False]
    """
    count, height, width = mazes.shape
    flat = mazes.flatten(1)
    steps = torch.tensor(MOVES, device=mazes.device)[moves]
    rows = torch.arange(height, device=mazes.device).view(-1, 1) + steps[..., 0]
    columns = torch.arange(width, device=mazes.device) + steps[..., 1]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    to = torch.where(inside, rows * width + columns, 0).flatten(1)
    here = torch.arange(height * width, device=mazes.device)
    stay = ~inside.flatten(1) | (flat.gather(1, to) == WALL) | (flat == GOAL)
    to = torch.where(stay, here, to)
    at = (flat == START).int().argmax(1, keepdim=True)
    visited = torch.zeros_like(flat, dtype=torch.bool)
    while count and not visited.gather(1, at).all():
        visited.scatter_(1, at, True)
        at = to.gather(1, at)
    return visited.view_as(mazes), (visited & (flat == GOAL)).any(1)


def wrong_on_the_way(scores: Tensor, mazes: Tensor, optimal: Tensor | None = None) -> Tensor:
    """Of the cells that one visits by the moves of highest score those where the move is not optimal, (B, h, w).

    There are none exactly where one comes from start to goal in as few steps as possible. ``scores`` (B, 4, h, w);
    ``optimal`` as `optimal_moves` gives it, if it is there already.
    """
    moves = scores.argmax(1)
    optimal = optimal_moves(mazes) if optimal is None else optimal
    right = optimal.gather(1, moves.unsqueeze(1)).squeeze(1) | (mazes == GOAL)
    return follow(moves, mazes)[0] & ~right
