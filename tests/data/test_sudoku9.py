"""Sudoku puzzles of 9 x 9 cells: each has one solution, by another solver too; no grid is in two sets, in any guise."""

import numpy as np
import pytest
import torch

from deqzoo.data import CorruptDataError, DataNotFoundError, Sudoku9Data, sudoku9
from deqzoo.data.sudoku import sudoku_grids
from deqzoo.data.sudoku_collections import read_puzzles
from deqzoo.data.sudoku_generator import draw_grids, remove_digits
from deqzoo.data.sudoku_solver import another_solution, solve_sudokus
from deqzoo.data.sudoku_symmetry import canonical_grid, grid_invariants, random_symmetry

SMALL = {"train_size": 24, "val_size": 6, "test_size": 8, "batch_size": 12, "collections": False}


def count_solutions(puzzle, limit=2):
    """Of nested lists, by plain backtracking: another solver than the one that is tested."""
    rows, columns, boxes = ([set() for _ in range(9)] for _ in range(3))
    empty = []
    for row in range(9):
        for column in range(9):
            if digit := puzzle[row][column]:
                for taken in (rows[row], columns[column], boxes[row // 3 * 3 + column // 3]):
                    if digit in taken:
                        return 0
                    taken.add(digit)
            else:
                empty.append((row, column))

    def search():
        if not empty:
            return 1
        options = {
            cell: set(range(1, 10)) - rows[cell[0]] - columns[cell[1]] - boxes[cell[0] // 3 * 3 + cell[1] // 3]
            for cell in empty
        }
        cell = min(empty, key=lambda each: len(options[each]))
        empty.remove(cell)
        units = rows[cell[0]], columns[cell[1]], boxes[cell[0] // 3 * 3 + cell[1] // 3]
        found = 0
        for digit in options[cell]:
            for taken in units:
                taken.add(digit)
            found += search()
            for taken in units:
                taken.remove(digit)
            if found >= limit:
                break
        empty.append(cell)
        return found

    return min(search(), limit)


@pytest.fixture(scope="module")
def drawn():
    """Solution grids, and puzzles of which no digit can go."""
    random = np.random.default_rng(3)
    grids = draw_grids(12, random)
    return grids, remove_digits(grids, np.zeros(12, np.int64), random)


def test_grids_keep_the_rules():
    grids = draw_grids(50, np.random.default_rng(0))
    boxes = grids.reshape(-1, 3, 3, 3, 3).swapaxes(2, 3).reshape(-1, 9, 9)
    for units in (grids, grids.swapaxes(1, 2), boxes):
        assert (np.sort(units, 2) == np.arange(1, 10)).all()
    assert len(np.unique(grids, axis=0)) == 50


def test_each_puzzle_has_one_solution_and_none_without_one_of_its_digits(drawn):
    grids, puzzles = drawn
    assert all(count_solutions(puzzle.tolist()) == 1 for puzzle in puzzles)
    solutions, counts = solve_sudokus(puzzles)
    assert (counts == 1).all()
    assert (solutions == grids).all()
    for puzzle in puzzles[:2]:
        for row, column in np.argwhere(puzzle):
            fewer = puzzle.copy()
            fewer[row, column] = 0
            assert count_solutions(fewer.tolist()) == 2
            assert another_solution(puzzle[None], np.array([9 * row + column]))[0]


def test_the_number_of_solutions_is_that_of_the_grids_that_fit():
    grids, random = sudoku_grids().view(-1, 4, 4).numpy().astype(np.uint8), np.random.default_rng(1)
    puzzles = np.where(
        random.random((200, 4, 4)) < random.random((200, 1, 1)), grids[random.integers(288, size=200)], 0
    )
    fits = ((puzzles[:, None] == grids) | (puzzles[:, None] == 0)).all((2, 3)).sum(1)
    solutions, counts = solve_sudokus(puzzles.astype(np.uint8), limit=1000)
    assert (counts == fits).all()
    assert counts.max() > 20
    assert ((solutions == puzzles) | (puzzles == 0)).all()


def test_contradictory_puzzles_have_no_solution():
    puzzles = np.zeros((2, 9, 9), np.uint8)
    puzzles[0, 0, [0, 5]] = 3
    puzzles[1, 0, :8] = np.arange(1, 9)
    puzzles[1, 5, 8] = 9  # the only digit for the last cell of the first row
    solutions, counts = solve_sudokus(puzzles)
    assert counts.tolist() == [0, 0]
    assert not solutions.any()


def test_the_number_of_digits_that_is_asked_for():
    random = np.random.default_rng(4)
    least = np.array([40, 31, 28])
    puzzles = remove_digits(draw_grids(3, random), least, random)
    assert ((puzzles > 0).sum((1, 2)) == least).all()


def test_symmetries_change_neither_canonical_form_nor_invariants(drawn):
    grids, _ = drawn
    same = random_symmetry(random_symmetry(grids, np.random.default_rng(5)), np.random.default_rng(6))
    assert (same != grids).any((1, 2)).all()
    assert grid_invariants(same) == grid_invariants(grids)
    forms = [canonical_grid(grid) for grid in grids[:4]]
    assert [canonical_grid(grid) for grid in same[:4]] == forms
    assert len(set(forms)) == 4
    assert len(set(grid_invariants(grids))) == 12


def test_a_grid_of_another_set_is_drawn_anew_in_any_guise():
    taken = random_symmetry(draw_grids(5, np.random.default_rng(7)), np.random.default_rng(8))
    grids = sudoku9._new_grids(5, [taken], np.random.default_rng(7))
    assert not {canonical_grid(grid) for grid in grids} & {canonical_grid(grid) for grid in taken}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with small collections."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(9)
    (root / "sudoku").mkdir()
    for name in ("17_clue.txt", "forum_hardest_1905.txt"):
        puzzles = remove_digits(draw_grids(4, random), np.full(4, 30), random)
        lines = ["".join(map(str, puzzle.ravel())).replace("0", ".") for puzzle in puzzles]
        (root / "sudoku" / name).write_text("# found by hand\n" + "\n".join(lines) + "\n")
    return root


def test_sets_are_the_same_always_and_share_no_grid(root):
    options = SMALL | {"root": str(root), "collections": True, "collected": 3}
    data, again = Sudoku9Data("sudoku9", **options), Sudoku9Data("sudoku9", seed=4, **options)
    data.setup()
    written = data.file.stat().st_mtime_ns
    again.setup()
    assert data.file == again.file
    assert data.file.stat().st_mtime_ns == written
    assert all(torch.equal(a, b) for a, b in zip(data.tensors, again.tensors, strict=True))
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 24, "val": 6, "test": 8}
    assert {name: len(part[0]) for name, part in data.others.items()} == {"25-30": 8, "17": 3, "hardest": 3}
    sets = [tuple(t[part] for t in data.tensors) for part in data.parts.values()] + list(data.others.values())
    forms = [{canonical_grid(grid) for grid in grids.numpy().astype(np.uint8)} for _, grids in sets]
    assert sum(map(len, forms)) == len(set.union(*forms)) == sum(len(grids) for _, grids in sets)
    for puzzles, grids in sets:
        assert ((puzzles == grids) | (puzzles == 0)).all()
    first, second = (next(iter(each.train_dataloader())) for each in (data, again))
    assert not torch.equal(first[1], second[1])  # the order follows the seed
    assert data.info.side == 9
    for name, (fewest, most) in {"test": (31, 42), "25-30": (25, 30)}.items():
        puzzles = data.others[name][0] if name in data.others else data.tensors[0][data.parts[name]]
        givens = (puzzles > 0).flatten(1).sum(1)
        assert fewest <= givens.min()
        assert givens.max() <= most


def test_added_digits_are_right_and_follow_from_seed_epoch_and_batch(tmp_path):
    def batches(seed, after=0):
        data = Sudoku9Data("sudoku9", seed=seed, root=str(tmp_path), **SMALL)
        data.setup()
        loader = data.train_dataloader()
        if after:
            whole = iter(loader)
            for _ in range(after):
                next(whole)
            state, loader = loader.state_dict(), data.train_dataloader()
            loader.load_state_dict(state)
        return data, list(loader)

    data, taken = batches(0)
    least = (data.tensors[0] > 0).flatten(1).sum(1)
    for puzzles, solutions in taken:
        assert ((puzzles == solutions) | (puzzles == 0)).all()
    more = torch.cat([(puzzles > 0).flatten(1).sum(1) for puzzles, _ in taken])
    assert least.max() < more.max() <= least.max() + 18
    assert more.sum() > least[data.parts["train"]].sum() + 24
    assert all(torch.equal(a, b) for a, b in zip(batches(0)[1][0], taken[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(batches(0, after=1)[1][0], taken[1], strict=True))
    assert not torch.equal(batches(1)[1][0][0], taken[0][0])


def test_the_puzzles_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    def stopped(path, **arrays):
        path.write_bytes(b"part")
        raise KeyboardInterrupt

    data = Sudoku9Data("sudoku9", root=str(tmp_path), **SMALL)
    monkeypatch.setattr(np, "savez_compressed", stopped)
    with pytest.raises(KeyboardInterrupt):
        data.setup()
    assert list((tmp_path / "sudoku9").iterdir()) == []


def test_without_the_collections(tmp_path):
    data = Sudoku9Data("sudoku9", root=str(tmp_path), **SMALL | {"collections": True, "download": False})
    with pytest.raises(DataNotFoundError, match=r"17_clue.txt is not in (.|\n)*data\.collections=false"):
        data.prepare_data()
    assert not (tmp_path / "sudoku9").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1" * 80, r"line 1: a puzzle has 81 characters"),
        ("# head\n" + 80 * "." + "x", r"line 2: a puzzle has 81 characters, .* this is '\.\.\."),
        ("# head alone\n", "has no puzzle"),
    ],
)
def test_a_file_with_something_else(text, told, tmp_path):
    (tmp_path / "17_clue.txt").write_text(text)
    with pytest.raises(CorruptDataError, match=told):
        read_puzzles(tmp_path, "17_clue.txt")


def test_a_collected_puzzle_with_several_solutions(tmp_path):
    with pytest.raises(ValueError, match="the collection 17 has puzzles with no solution, or with several"):
        sudoku9.draw_parts({"train": 1, "val": 1, "test": 1}, {"17": np.zeros((1, 9, 9), np.uint8)}, 1)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train_size": 0}, r"data\.train_size must be at least 1, got 0"),
        ({"collected": 0}, r"data\.collected must be at least 1, got 0"),
        ({"added_givens": -1}, r"data\.added_givens must lie between 0 and 81, got -1"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValueError, match=told):
        Sudoku9Data("sudoku9", **options)


def test_wrong_name():
    with pytest.raises(ValueError, match="no set of puzzles 'sudoku4'; valid is sudoku9"):
        Sudoku9Data("sudoku4")
