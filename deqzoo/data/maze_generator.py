"""Mazes with loops: how they are drawn, and which moves in them are optimal. NumPy alone.

A maze is an odd number of cells wide and high, `True` where one can walk. Rooms lie at odd rows and columns; the cell
between two of them is open or a wall. One walks to the four neighbours of a cell.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Cells = NDArray[np.bool_]  # (n, side, side)
Places = NDArray[np.int64]  # (n, 2), row and column
MOVES = (-1, 0), (1, 0), (0, -1), (0, 1)  # up, down, left, right
_WAYS = np.array(MOVES)


def draw_mazes(count: int, side: int, loops: float, random: Generator) -> Cells:
    r"""Mazes (count, side, side), each of whose rooms can be reached from each other one.

    A depth-first search in random order digs a tree of corridors through all rooms; of the walls that are left between
    two rooms, each is then opened with a probability, which makes loops.

    Args:
        count: how many.
        side: cells of a row, odd, at least 5.
        loops: that probability.
        random: they are drawn from it.

    >>> maze = draw_mazes(1, 7, 0.2, np.random.default_rng(0))[0]
    >>> print("\n".join("".join("#."[cell] for cell in row) for row in maze.astype(int)))
    #######
    #.....#
    #.###.#
    #...#.#
    #.#.#.#
    #.#...#
    #######
    """
    if side < 5 or side % 2 == 0:
        raise ValueError(f"the side of a maze is odd, and at least 5; got {side}")
    if not 0 <= loops <= 1:
        raise ValueError(f"loops is a probability; got {loops}")
    free = _trees(count, side, random)
    rows, columns = np.mgrid[:side, :side]
    inner = (rows > 0) & (columns > 0) & (rows < side - 1) & (columns < side - 1)
    between = inner & ((rows + columns) % 2 == 1)
    return free | (between & (random.random(free.shape) < loops))


def _trees(count: int, side: int, random: Generator) -> Cells:
    """Corridors without loops through all rooms of each maze: all of them are searched at once, a step at a time."""
    rooms = side // 2
    each = np.arange(count)
    free = np.zeros((count, side, side), bool)
    seen = np.zeros((count, rooms + 2, rooms + 2), bool)  # with a border that nobody enters
    seen[:, [0, -1]] = seen[:, :, [0, -1]] = True
    way_in = np.zeros((count, rooms + 2, rooms + 2), np.int64)  # from where a room was entered first
    here = 1 + random.integers(rooms, size=(count, 2))
    seen[each, here[:, 0], here[:, 1]] = True
    free[each, 2 * here[:, 0] - 1, 2 * here[:, 1] - 1] = True
    for _ in range(2 * (rooms**2 - 1)):  # each room but the first is entered and left
        next_ = here[:, None] + _WAYS
        new = ~seen[each[:, None], next_[..., 0], next_[..., 1]]
        way = np.where(new, random.random(new.shape), -1).argmax(1)
        forth = new.any(1)
        to = np.where(forth[:, None], next_[each, way], here - _WAYS[way_in[each, here[:, 0], here[:, 1]]])
        dug, way, old, fresh = each[forth], way[forth], here[forth], to[forth]
        free[dug, 2 * fresh[:, 0] - 1, 2 * fresh[:, 1] - 1] = True
        free[dug, old[:, 0] + fresh[:, 0] - 1, old[:, 1] + fresh[:, 1] - 1] = True
        seen[dug, fresh[:, 0], fresh[:, 1]] = True
        way_in[dug, fresh[:, 0], fresh[:, 1]] = way
        here = to
    return free


def draw_ends(free: Cells, random: Generator) -> tuple[Places, Places]:
    """Start and goal of each maze: two different rooms."""
    rooms = free.shape[1] // 2
    first = random.integers(rooms**2, size=len(free))
    second = (first + random.integers(1, rooms**2, size=len(free))) % rooms**2
    start, goal = (1 + 2 * np.stack(np.divmod(room, rooms), 1) for room in (first, second))
    return start, goal


def distances(free: Cells, place: Places) -> NDArray[np.int64]:
    """Steps from a place of each maze to each cell, (n, height, width); -1 where there is no way."""
    each = np.arange(len(free))
    found = np.full(free.shape, -1)
    front = np.zeros_like(free)
    front[each, place[:, 0], place[:, 1]] = True
    steps = 0
    while front.any():
        found[front] = steps
        near = np.zeros_like(front)
        near[:, 1:] |= front[:, :-1]
        near[:, :-1] |= front[:, 1:]
        near[:, :, 1:] |= front[:, :, :-1]
        near[:, :, :-1] |= front[:, :, 1:]
        front = near & free & (found < 0)
        steps += 1
    return found


def optimal_moves(free: Cells, goal: Places) -> NDArray[np.bool_]:
    """Whether each of `MOVES` brings one a step nearer to the goal, from each cell, (n, 4, height, width).

    From walls, from the goal, and from cells from which there is no way to it, no move does. From others several may.

    >>> moves = optimal_moves(np.ones((1, 1, 3), bool), np.array([[0, 2]]))  # a corridor, the goal at its right end
    >>> moves[0, :, 0].astype(int).tolist()
    [[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0]]
    """
    steps = distances(free, goal)
    height, width = free.shape[1:]
    around = np.pad(steps, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    beside = [around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width] for down, right in MOVES]
    return np.stack([(near == steps - 1) & (steps > 0) for near in beside], 1)


def shortest_paths(free: Cells, start: Places, goal: Places) -> Cells:
    """The cells of each maze that lie on a shortest path from start to goal, these two included.

    Where several paths are equally short, it is the cells of all of them.
    """
    from_start, from_goal = distances(free, start), distances(free, goal)
    length = from_start[np.arange(len(free)), goal[:, 0], goal[:, 1]]
    return (from_start >= 0) & (from_goal >= 0) & (from_start + from_goal == length[:, None, None])


def maze_names(free: Cells) -> NDArray[np.uint64]:
    """A number for each maze, the same for a maze and its turned and mirrored images, (n,).

    Two other mazes have the same one by chance alone, of 2^64 to 1.

    >>> maze = draw_mazes(1, 9, 0.2, np.random.default_rng(0))
    >>> bool(maze_names(maze) == maze_names(np.rot90(maze, axes=(1, 2)))), bool(maze_names(maze) == maze_names(~maze))
    (True, False)
    """
    side = free.shape[1]
    weights = np.random.default_rng(side).integers(2**64, size=(side, side), dtype=np.uint64)
    turned = [np.rot90(weights, turns) for turns in range(4)]
    names = [(free * image).sum((1, 2), dtype=np.uint64) for image in turned + [image.T for image in turned]]
    return np.min(names, axis=0)


def without_dead_ends(free: Cells, start: Places, goal: Places) -> Cells:
    """The cells that are left when dead ends are filled, again and again; start and goal stay.

    In a maze without loops it is the path. In one with loops it is no answer: see what is left of them.
    """
    ends, each = np.zeros_like(free), np.arange(len(free))
    for place in (start, goal):
        ends[each, place[:, 0], place[:, 1]] = True
    while True:
        ways = np.zeros(free.shape, np.int64)
        ways[:, 1:] += free[:, :-1]
        ways[:, :-1] += free[:, 1:]
        ways[:, :, 1:] += free[:, :, :-1]
        ways[:, :, :-1] += free[:, :, 1:]
        dead = free & ~ends & (ways <= 1)
        if not dead.any():
            return free
        free = free & ~dead
