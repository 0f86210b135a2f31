"""Which Sudoku grids are the same but for a symmetry: digits renamed, rows, columns, bands or stacks moved, transposed.

`canonical_grid` gives equal grids for exactly these. It takes a moment for each grid; `grid_invariants` are fast, equal
for grids that are the same, and different for nearly all others: parts without a common invariant share no grid.
"""

from functools import cache
from itertools import permutations, product

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from deqzoo.data.sudoku_solver import Puzzles


def random_symmetry(puzzles: Puzzles, random: Generator) -> Puzzles:
    """Each of the puzzles (n, 9, 9) as another one that is the same, by a random symmetry of its own.

    >>> grid = np.arange(81, dtype=np.uint8).reshape(1, 9, 9) % 10
    >>> bool((np.sort(random_symmetry(grid, np.random.default_rng(0)), None) == 0).sum() == (grid == 0).sum())
    True
    """
    orders = _line_orders()
    moved = []
    for puzzle in puzzles:
        rows, columns = orders[random.integers(len(orders), size=2)]
        names = np.concatenate([[0], 1 + random.permutation(9)]).astype(np.uint8)
        other = names[puzzle[rows][:, columns]]
        moved.append(other.T if random.random() < 0.5 else other)
    return np.stack(moved)


def canonical_grid(grid: NDArray[np.uint8]) -> bytes:
    """The least, row after row, of all grids that are the same as this solution grid (9, 9).

    >>> from deqzoo.data.sudoku_generator import draw_grids
    >>> grid, other = draw_grids(2, np.random.default_rng(0))
    >>> same = random_symmetry(grid[None], np.random.default_rng(0))[0]
    >>> canonical_grid(grid) == canonical_grid(same), canonical_grid(grid) == canonical_grid(other)
    (True, False)
    """
    return min(_least(side, row) for side in (grid, grid.T) for row in range(9))


def _least(grid: NDArray[np.uint8], first: int) -> bytes:
    """The least with this row first, which is named 1 to 9: over all orders of the columns."""
    orders = _line_orders()
    columns = grid[:, orders].transpose(1, 0, 2)  # (orders, rows, 9)
    names = np.zeros((len(orders), 10), np.uint8)
    np.put_along_axis(names, columns[:, first], np.arange(1, 10, dtype=np.uint8)[None], 1)
    named = np.take_along_axis(names, columns.reshape(len(orders), 81), 1).reshape(-1, 9, 9)
    # The second and third row decide first: only the orders with the least second row are gone on with.
    band = first // 3 * 3
    others = [row for row in range(band, band + 3) if row != first]
    keys = _key(named[:, others]).min(1)
    best = named[keys == keys.min()]
    return min(_sorted(candidate, band, first).tobytes() for candidate in best)


def _sorted(grid: NDArray[np.uint8], band: int, first: int) -> NDArray[np.uint8]:
    """The rows in the least order: those of each band, and the bands below the first one."""
    bands = []
    for start in (0, 3, 6):
        rows = sorted((grid[row] for row in range(start, start + 3)), key=bytes)
        if start == band:
            rows.sort(key=lambda row: bytes(row) != bytes(grid[first]))
            top = rows
        else:
            bands.append(rows)
    bands.sort(key=lambda rows: bytes(rows[0]))
    return np.stack([*top, *bands[0], *bands[1]])


def _key(rows: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Rows (..., 9) of digits as numbers in the same order."""
    return rows.astype(np.int64) @ 10 ** np.arange(8, -1, -1, dtype=np.int64)


@cache
def _line_orders() -> NDArray[np.int64]:
    """The 1,296 orders of nine rows, or columns, that keep the boxes: (1296, 9)."""
    inside = [list(order) for order in permutations(range(3))]
    orders = [
        [3 * band + line for band, lines in zip(bands, each, strict=True) for line in lines]
        for bands in inside
        for each in product(inside, repeat=3)
    ]
    return np.array(orders)


def grid_invariants(grids: Puzzles) -> list[bytes]:
    """Of each solution grid (n, 9, 9) a word that no symmetry changes.

    A row leads to another one by a permutation of the digits: what stands above, what below. The lengths of its cycles
    stay when digits are renamed or columns moved. The word has them for all pairs, in an order of its own.
    """
    words = []
    for side in (grids, grids.transpose(0, 2, 1)):
        inside, across = [], []
        for band in range(3):
            pairs = [(3 * band + i, 3 * band + j) for i in range(3) for j in range(i)]
            inside.append(np.sort([_cycles(side[:, i], side[:, j]) for i, j in pairs], 0))
            for other in range(band):
                pairs = [(3 * band + i, 3 * other + j) for i in range(3) for j in range(3)]
                across.append(np.sort([_cycles(side[:, i], side[:, j]) for i, j in pairs], 0))
        parts = [np.sort(_packed(part), 0) for part in (inside, across)]
        words.append(np.concatenate(parts).T)  # (n, 6)
    return [min(a.tobytes(), b.tobytes()) + max(a.tobytes(), b.tobytes()) for a, b in zip(*words, strict=True)]


def _packed(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Sorted lists of numbers below 32, (k, n) each, as one number each: (len(parts), n)."""
    return np.stack([(part.T << 5 * np.arange(len(part))).sum(1) for part in parts])


def _cycles(above: NDArray[np.uint8], below: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Which lengths the cycles of the permutations above -> below have, (n,): the number of a partition of nine."""
    n = len(above)
    leads = np.zeros((n, 9), np.int64)
    np.put_along_axis(leads, above.astype(np.int64) - 1, below.astype(np.int64) - 1, 1)
    place, length = np.tile(np.arange(9), (n, 1)), np.zeros((n, 9), np.int64)
    for step in range(1, 10):
        place = np.take_along_axis(leads, place, 1)
        length[(place == np.arange(9)) & (length == 0)] = step
    return np.searchsorted(_cycle_types(), (10 ** np.maximum(length - 1, 0)).sum(1))


@cache
def _cycle_types() -> NDArray[np.int64]:
    """For each of the 30 ways in which cycles share nine digits: a number whose decimals count those in each length."""

    def parts(left: int, least: int) -> list[int]:
        if left == 0:
            return [0]
        return [part * 10 ** (part - 1) + rest for part in range(least, left + 1) for rest in parts(left - part, part)]

    return np.sort(parts(9, 1))
