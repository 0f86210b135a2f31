"""Mazes: all rooms are joined, there are loops, shortest paths are those of another search, no maze is in two parts."""

from collections import deque

import numpy as np
import pytest
import torch
from numpy.random import default_rng

from deqzoo.data import MazeData
from deqzoo.data.maze_generator import (
    distances,
    draw_ends,
    draw_mazes,
    maze_names,
    shortest_paths,
    without_dead_ends,
)

SMALL = {"train_size": 61, "val_size": 10, "test_size": 12, "other_size": 8, "batch_size": 20, "eval_batch_size": 5}


def search(free, start):
    """Steps from the start to each cell that can be reached, by a queue of single cells."""
    found, queue = {start: 0}, deque([start])
    while queue:
        row, column = cell = queue.popleft()
        for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if near not in found and all(0 <= k < n for k, n in zip(near, free.shape, strict=True)) and free[near]:
                found[near] = found[cell] + 1
                queue.append(near)
    return found


@pytest.mark.parametrize("side", [5, 9, 27])
def test_all_rooms_are_joined_and_without_loops_by_one_way_each(side):
    rooms = (side // 2) ** 2
    tree = draw_mazes(20, side, 0.0, default_rng(0))
    assert (tree.sum((1, 2)) == 2 * rooms - 1).all()  # as many passages as a tree has
    for free in (*tree, *draw_mazes(20, side, 0.3, default_rng(1))):
        assert free[1::2, 1::2].all()
        assert not free[::2, ::2].any()
        assert not (free[[0, -1]].any() | free[:, [0, -1]].any())
        assert len(search(free, (1, 1))) == free.sum()


def test_walls_are_opened_with_the_probability_that_was_asked_for():
    side, count = 21, 200
    rooms = (side // 2) ** 2
    walls = 2 * 10 * 9 - (rooms - 1)  # between two rooms, in a tree
    more = draw_mazes(count, side, 0.15, default_rng(0)).sum((1, 2)) - (2 * rooms - 1)
    assert more.mean() / walls == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / (walls * count)) ** 0.5)
    assert (draw_mazes(2, side, 1.0, default_rng(0)).sum((1, 2)) == rooms + 180).all()


@pytest.mark.parametrize(("side", "loops"), [(7, 0.0), (13, 0.15), (15, 0.5), (9, 1.0)])
def test_shortest_paths_are_those_of_another_search(side, loops):
    random = default_rng(2)
    mazes = draw_mazes(25, side, loops, random)
    start, goal = draw_ends(mazes, random)
    paths, far = shortest_paths(mazes, start, goal), distances(mazes, start)
    for free, s, g, path, steps in zip(mazes, start, goal, paths, far, strict=True):
        s, g = tuple(s.tolist()), tuple(g.tolist())
        assert s != g
        there, back = search(free, s), search(free, g)
        assert {(row, column): steps[row, column] for row, column in there} == there
        assert (steps[~free] == -1).all()
        assert {cell for cell in there if there[cell] + back[cell] == there[g]} == set(
            zip(*path.nonzero(), strict=True)
        )


def test_dead_ends_are_all_that_is_not_the_path_of_a_maze_without_loops_alone():
    random = default_rng(0)
    for loops, least, most in ((0.0, 1.0, 1.0), (0.15, 0.0, 0.1)):
        mazes = draw_mazes(100, 19, loops, random)
        ends = draw_ends(mazes, random)
        solved = (without_dead_ends(mazes, *ends) == shortest_paths(mazes, *ends)).all((1, 2)).mean()
        assert least <= solved <= most


def test_a_way_that_is_not_there():
    free = np.zeros((1, 5, 5), bool)
    free[0, 1, 1] = free[0, 3, 3] = True
    start, goal = np.array([[1, 1]]), np.array([[3, 3]])
    assert distances(free, start)[0, 3, 3] == -1
    assert not shortest_paths(free, start, goal).any()


def test_names_are_those_of_turned_and_mirrored_mazes_alone():
    mazes = draw_mazes(500, 9, 0.15, default_rng(0))
    names = maze_names(mazes)
    for turns in range(4):
        turned = np.rot90(mazes, turns, axes=(1, 2))
        assert (maze_names(turned) == names).all()
        assert (maze_names(turned.transpose(0, 2, 1)) == names).all()
    smallest = {min(t.tobytes() for k in range(4) for t in (np.rot90(m, k), np.rot90(m, k).T)) for m in mazes}
    assert len(set(names.tolist())) == len(smallest)


def test_parts_are_the_same_always_and_share_no_maze():
    data, other = (
        MazeData("mazes", seed=seed, sides=[7, 9], test_side=11, other_sides=[9], **SMALL) for seed in (0, 3)
    )
    for each in (data, other):
        each.setup()
    assert all(torch.equal(a, b) for a, b in zip(data.tensors, other.tensors, strict=True))
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 61, "val": 10, "test": 12}
    mazes, moves = data.tensors
    assert (mazes.shape, moves.shape) == ((71, 9, 9), (71, 4, 9, 9))
    assert ((mazes[:30, 7:] == 0).all(), (mazes[:30, :, 7:] == 0).all()) == (True, True)  # smaller ones, with walls
    assert (mazes[31:61, 7, 7] > 0).all()
    sets = [mazes[data.parts["train"]], mazes[data.parts["val"]], data.others["9"][0]]
    names = [set(maze_names(part.numpy() > 0).tolist()) for part in sets]
    assert sum(map(len, names)) == len(set.union(*names))
    for cells, moves in (data.tensors, data.tested, data.others["9"]):
        assert ((cells == 2).flatten(1).sum(1) == 1).all()
        assert ((cells == 3).flatten(1).sum(1) == 1).all()
        assert torch.equal(moves.any(1), (cells == 1) | (cells == 2))  # every cell has a way to the goal
    assert [batch[0].shape[0] for batch in data.test_dataloader()] == [5, 5, 2]
    assert next(iter(data.test_dataloader()))[0].shape == (5, 11, 11)
    first, second = (next(iter(each.train_dataloader()))[0] for each in (data, other))
    assert first.shape == (20, 9, 9)
    assert not torch.equal(first, second)  # the order follows the seed
    assert data.info.to_json() == {}


def test_parts_of_a_side_do_not_depend_on_the_other_sides():
    """So a first stage of training, on one of the sides, sees nothing of what is tested later."""
    one = MazeData("mazes", **{**SMALL, "sides": [9], "test_side": 11, "other_sides": [13], "val_size": 5})
    both = MazeData("mazes", **{**SMALL, "sides": [7, 9], "test_side": 11, "other_sides": [13]})
    for each in (one, both):
        each.setup()
    assert torch.equal(one.tensors[0][one.parts["val"]], both.tensors[0][both.parts["val"]][5:])
    assert all(torch.equal(one.others["13"][k], both.others["13"][k]) for k in range(2))
    assert torch.equal(one.tested[0], both.tested[0])


def test_few_mazes_are_shared_out_although_there_are_hardly_others():
    """Of 2 x 2 rooms there are two mazes: a way round, and one with a wall in it."""
    data = MazeData("mazes", sides=[5], test_side=5, other_sides=[], loops=0.5, **{**SMALL, "train_size": 1})
    with pytest.raises(ValueError, match=r"hardly other mazes of 5 x 5 cells .* larger, or fewer"):
        data.setup()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train_size": 0}, r"data\.train_size must be at least 1, got 0"),
        ({"sides": []}, r"data\.sides must name a side at least"),
        ({"sides": [9, 10]}, r"side of a maze .* is odd, and at least 5; got 10"),
        ({"test_side": 3}, "got 3"),
        ({"other_sides": [8]}, "got 8"),
        ({"loops": 1.5}, r"data\.loops is a probability; got 1\.5"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValueError, match=told):
        MazeData("mazes", **options)


def test_wrong_name_and_size():
    with pytest.raises(ValueError, match="no set of mazes 'maze'; valid is mazes"):
        MazeData("maze")
    with pytest.raises(ValueError, match="odd, and at least 5; got 8"):
        draw_mazes(1, 8, 0.1, default_rng(0))
    with pytest.raises(ValueError, match="loops is a probability; got -1"):
        draw_mazes(1, 9, -1, default_rng(0))
