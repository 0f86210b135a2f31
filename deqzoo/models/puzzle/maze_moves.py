"""Moves in mazes: where one comes by following them, and where they are not optimal."""

from __future__ import annotations

import torch
from torch import Tensor

from deqzoo.data.maze_generator import MOVES
from deqzoo.models.puzzle.maze_cell import GOAL, START, WALL


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


def wrong_on_the_way(scores: Tensor, mazes: Tensor, optimal: Tensor) -> Tensor:
    """Of the cells that one visits by the moves of highest score those where the move is not optimal, (B, h, w).

    There are none exactly where one comes from start to goal in as few steps as possible. ``scores`` and ``optimal``,
    which moves are, (B, 4, h, w).
    """
    moves = scores.argmax(1)
    right = moves_right(scores, optimal) | (mazes == GOAL)
    return follow(moves, mazes)[0] & ~right
