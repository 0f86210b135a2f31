"""Sudoku puzzles drawn at random: solution grids, and of these puzzles, with one solution each, by removing digits."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from deqzoo.data.sudoku_solver import Puzzles, another_solution, candidates, digits, propagate

_CHUNK = 4000  # puzzles that lose their cells together


def draw_grids(count: int, random: Generator, side: int = 9) -> Puzzles:
    """Solution grids (count, side, side).

    Cells are filled one after another, each time one of those with the fewest candidates, by one of these; a grid that
    meets a contradiction is begun anew. All grids can come, not all of them as often.

    >>> grid = draw_grids(1, np.random.default_rng(0))[0]
    >>> all(sorted(row) == list(range(1, 10)) for row in [*grid, *grid.T])
    True
    """
    empty = candidates(np.zeros((1, side, side), np.uint8))
    states, finished = np.repeat(empty, count, 2), np.repeat(empty, count, 2)
    done = np.zeros(count, np.bool_)
    while not done.all():
        left = np.flatnonzero(~done)
        part = np.ascontiguousarray(states[..., left])
        _guess(part.reshape(side * side, -1), random)
        sound = propagate(part)
        complete = sound & ((part & (part - np.uint16(1))) == 0).all((0, 1))
        part[..., ~sound] = empty
        states[..., left] = part
        finished[..., left[complete]] = part[..., complete]
        done[left[complete]] = True
    return digits(finished)


def _guess(cells: NDArray[np.uint16], random: Generator) -> None:
    """Give one of the cells (cells, n) with the fewest candidates, but more than one, one of them, in place."""
    bits = (cells[..., None] >> np.arange(9, dtype=np.uint16)) & 1
    counts = bits.sum(-1)
    cell = np.where(counts > 1, counts + random.random(counts.shape), 99.0).argmin(0)
    columns = np.arange(cells.shape[1])
    digit = (bits[cell, columns] * random.random((len(columns), 9))).argmax(1)
    cells[cell, columns] = np.uint16(1) << digit.astype(np.uint16)


def remove_digits(solutions: Puzzles, least: NDArray[np.int64], random: Generator) -> Puzzles:
    """Puzzles (n, side, side) of solution grids: digits go in a random order, but those whose loss adds a solution.

    Args:
        solutions: (n, side, side).
        least: (n,), digits that are left, or more where no further one can go; 0: as few as possible.

    >>> grid = draw_grids(1, np.random.default_rng(0))
    >>> puzzle = remove_digits(grid, np.array([30]), np.random.default_rng(0))
    >>> int((puzzle > 0).sum()), bool(((puzzle == grid) | (puzzle == 0)).all())
    (30, True)
    """
    parts = [
        _remove(solutions[start : start + _CHUNK], least[start : start + _CHUNK], random)
        for start in range(0, len(solutions), _CHUNK)
    ]
    return np.concatenate(parts) if parts else solutions.copy()


def _remove(solutions: Puzzles, least: NDArray[np.int64], random: Generator) -> Puzzles:
    puzzles = solutions.copy()
    flat = puzzles.reshape(len(puzzles), -1)
    left = np.full(len(puzzles), flat.shape[1])
    for cells in random.random(flat.shape).argsort(1).T:
        rows = np.flatnonzero(left > least)
        if not len(rows):
            break
        goes = rows[~another_solution(puzzles[rows], cells[rows])]
        flat[goes, cells[goes]] = 0
        left[goes] -= 1
    return puzzles
