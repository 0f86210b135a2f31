"""Many Sudoku puzzles solved at once: a set of candidates for each cell as the bits of a number, in NumPy.

A state is (side, side, S) uint16, S puzzles side by side: bit d - 1 of a cell says that digit d may still stand there.
A puzzle has 4 or 9 cells a row; its boxes have the square root of that.
"""

from collections.abc import Iterator
from math import isqrt

import numpy as np
from numpy.typing import NDArray

Puzzles = NDArray[np.uint8]  # (n, side, side), 0 for an empty cell
State = NDArray[np.uint16]  # (side, side, n)

_WIDTH = 4096  # states that are worked on at once: enough to hide what a call of NumPy costs
_COUNT = np.array([bin(mask).count("1") for mask in range(1 << 9)], np.uint8)  # candidates of a set of them


def solve_sudokus(puzzles: Puzzles, limit: int = 2) -> tuple[Puzzles, NDArray[np.int64]]:
    """One solution of each puzzle and the number of its solutions, of which at most ``limit`` are looked for.

    Args:
        puzzles: (n, side, side), 0 for an empty cell.

    Returns:
        Solutions (n, side, side), zeros where there is none, and their numbers (n,).

    >>> puzzle = np.zeros((1, 4, 4), np.uint8)
    >>> puzzle[0, 0] = 1, 2, 3, 4
    >>> solve_sudokus(puzzle)[1], solve_sudokus(puzzle, limit=99)[1]
    (array([2]), array([12]))
    """
    states = candidates(puzzles)
    solutions, found = np.zeros_like(puzzles), np.zeros(len(puzzles), np.int64)
    for solved, owners in _search(states, found, limit):
        solutions[owners] = digits(solved)
    return solutions, found


def candidates(puzzles: Puzzles) -> State:
    """The state in which an empty cell has all digits, and a given one its own."""
    side = puzzles.shape[-1]
    bits = np.array([(1 << side) - 1, *(1 << np.arange(side))], np.uint16)
    return np.ascontiguousarray(np.moveaxis(bits[puzzles], 0, -1))


def digits(states: State) -> Puzzles:
    """The puzzles of states: the digits of the cells that have one candidate, 0 for the others."""
    names = np.zeros(1 << len(states), np.uint8)
    names[1 << np.arange(len(states))] = np.arange(1, len(states) + 1)
    return np.ascontiguousarray(np.moveaxis(names[states], -1, 0))


def another_solution(puzzles: Puzzles, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each puzzle, given the digit of one of its cells no longer, has a solution with another digit there.

    Args:
        puzzles: (n, side, side), with one solution each.
        cells: (n,), the number of the cell, row by row, which is given.
    """
    states = candidates(puzzles)
    flat, columns = states.reshape(-1, len(puzzles)), np.arange(len(puzzles))
    flat[cells, columns] ^= (1 << len(states)) - 1
    found = np.zeros(len(puzzles), np.int64)
    for _ in _search(states, found, 1):
        pass
    return found > 0


def propagate(states: State) -> NDArray[np.bool_]:
    """Write the digits that follow by singles, in place, until none follows; whether no contradiction was met (S,).

    A cell with one candidate takes it from the cells of its row, column and box; a digit with one place there stands
    in it.
    """
    sound = np.ones(states.shape[-1], np.bool_)
    active = np.arange(states.shape[-1])
    part = states
    while len(active):
        before = part.copy()
        good = _round(part)
        changed = good & (before != part).any((0, 1))
        states[..., active] = part
        sound[active] = good
        active = active[changed]
        part = np.ascontiguousarray(part[..., changed])
    return sound


def _round(states: State) -> NDArray[np.bool_]:
    """One pass over rows, columns and boxes."""
    side, box = len(states), isqrt(len(states))
    everything = np.uint16((1 << side) - 1)
    rows, columns = states, states.swapaxes(0, 1)
    blocks = states.reshape(box, box, box, box, -1)
    good = np.ones(states.shape[-1], np.bool_)
    for kind in range(3):
        members = [
            rows[:, i] if kind == 0 else columns[:, i] if kind == 1 else blocks[:, i // box, :, i % box]
            for i in range(side)
        ]
        once, twice, fixed, clash = (np.zeros(members[0].shape, np.uint16) for _ in range(4))
        singles = []
        for cell in members:
            twice |= once & cell
            once |= cell
            single = np.where(cell & (cell - np.uint16(1)), np.uint16(0), cell)
            clash |= fixed & single
            fixed |= single
            singles.append(single)
        good &= ((once == everything) & (clash == 0)).reshape(-1, len(good)).all(0)
        hidden = once & ~twice & ~fixed
        for cell, single in zip(members, singles, strict=True):
            kept = cell & ~(fixed & ~single)
            only = kept & hidden
            cell[...] = np.where(only, only, kept)
    return good & (states != 0).all((0, 1))


def _search(states: State, found: NDArray[np.int64], limit: int) -> Iterator[tuple[State, NDArray[np.int64]]]:
    """Depth first, many states at a time: yields solved states and whose they are; ``found`` counts, up to the limit.

    Each puzzle's search ends with its ``limit``-th solution.
    """
    stack = [(states, np.arange(states.shape[-1]))]
    while stack:
        states, owners = stack.pop()
        if len(owners) > _WIDTH:
            stack.append((np.ascontiguousarray(states[..., _WIDTH:]), owners[_WIDTH:]))
            states, owners = np.ascontiguousarray(states[..., :_WIDTH]), owners[:_WIDTH]
        wanted = found[owners] < limit
        if not wanted.any():
            continue
        states, owners = np.ascontiguousarray(states[..., wanted]), owners[wanted]
        sound = propagate(states)
        flat = states.reshape(-1, len(owners))
        counts = _COUNT[flat]
        solved = sound & (counts == 1).all(0)
        if solved.any():
            place = np.flatnonzero(solved)
            _, first = np.unique(owners[place], return_index=True)
            np.add.at(found, owners[place], 1)
            np.minimum(found, limit, out=found)
            yield states[..., place[first]], owners[place[first]]
        open_ = np.flatnonzero(sound & ~solved)
        if len(open_):
            flat, owners, counts = flat[:, open_], owners[open_], counts[:, open_]
            cell, columns = np.where(counts > 1, counts, 99).argmin(0), np.arange(len(open_))
            choice = flat[cell, columns]
            lowest = choice & (~choice + np.uint16(1))
            one, rest = flat.copy(), flat
            one[cell, columns], rest[cell, columns] = lowest, choice ^ lowest
            both = np.concatenate([rest, one], 1).reshape(*states.shape[:2], -1)
            stack.append((both, np.concatenate([owners, owners])))
