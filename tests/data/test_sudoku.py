"""Sudoku puzzles: all grids keep the rules, each puzzle has one solution, and no solution is in two parts."""

import pytest
import torch
from torch import Generator

from deqzoo.data import SudokuData
from deqzoo.data.sudoku import draw_sudokus, sudoku_grids

SMALL = {"train_size": 300, "val_size": 20, "test_size": 30, "batch_size": 60, "eval_batch_size": 30}


def test_the_grids_are_all_that_keep_the_rules():
    grids = sudoku_grids().view(-1, 4, 4)
    assert len(grids.unique(dim=0)) == 288  # the number that is known
    boxes = grids.view(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4, 4)
    for units in (grids, grids.mT, boxes):
        assert (units.sort(2).values == torch.arange(1, 5)).all()


@pytest.mark.parametrize(("least", "most"), [(4, 8), (10, 10)])
def test_each_puzzle_has_one_solution(least, most):
    grids = sudoku_grids()
    puzzles, solutions = draw_sudokus(torch.arange(20, 40), 200, least, most, Generator().manual_seed(1)).unbind(1)
    fits = ((puzzles[:, None] == grids) | (puzzles[:, None] == 0)).all(2)
    assert (fits.sum(1) == 1).all()
    assert torch.equal(grids[fits.int().argmax(1)], solutions)
    assert len(puzzles.unique(dim=0)) == 200
    givens = (puzzles > 0).sum(1)
    assert least <= givens.min()
    assert givens.max() <= most


def test_a_cell_stays_only_where_it_is_needed_or_asked_for():
    """Asked for four givens: each puzzle that keeps more has two solutions without any one of them."""
    grids = sudoku_grids()
    puzzles = draw_sudokus(torch.arange(288), 100, 4, 4, Generator().manual_seed(0))[:, 0]
    for puzzle in puzzles[(puzzles > 0).sum(1) > 4][:10]:
        for cell in puzzle.nonzero().flatten():
            fewer = puzzle.clone()
            fewer[cell] = 0
            assert ((fewer == grids) | (fewer == 0)).all(1).sum() > 1


def test_parts_are_the_same_always_and_share_no_solution():
    data, other = SudokuData("sudoku4", seed=0, **SMALL), SudokuData("sudoku4", seed=3, **SMALL)
    for each in (data, other):
        each.setup()
    assert all(torch.equal(a, b) for a, b in zip(data.tensors, other.tensors, strict=True))
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 300, "val": 20, "test": 30}
    solutions = [{tuple(grid) for grid in data.tensors[1][part].flatten(1).tolist()} for part in data.parts.values()]
    assert sum(map(len, solutions)) == len(set.union(*solutions))
    assert len(solutions[0]) > 150
    (batch,) = data.test_dataloader()
    assert [t.shape for t in batch] == [(30, 4, 4)] * 2
    first, second = (next(iter(each.train_dataloader()))[0] for each in (data, other))
    assert not torch.equal(first, second)  # the order follows the seed
    assert data.info.side == 4


def test_more_puzzles_than_there_are():
    with pytest.raises(ValueError, match="ask for fewer, or for more grids"):
        draw_sudokus(torch.tensor([0]), 2000, 5, 5, Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train_size": 0}, r"data\.train_size must be at least 1, got 0"),
        ({"val_grids": 200, "test_grids": 88}, "leave none of 288 grids to train on"),
        ({"min_givens": 3}, r"between 4, .* got 3 and 8"),
        ({"min_givens": 9}, "got 9 and 8"),
        ({"max_givens": 16}, "got 4 and 16"),
    ],
)
def test_wrong_options(options, told):
    with pytest.raises(ValueError, match=told):
        SudokuData("sudoku4", **options)


def test_wrong_name():
    with pytest.raises(ValueError, match="no set of puzzles 'sudoku9'; valid is sudoku4"):
        SudokuData("sudoku9")
