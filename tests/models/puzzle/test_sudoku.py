"""Equilibria that solve Sudoku: symmetries of the cell, a short training, what `solve` answers and refuses."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import deqzoo
from deqzoo.data.sudoku import sudoku_grids
from deqzoo.errors import ConfigError
from deqzoo.implicit import NonConvergenceWarning, Picard
from deqzoo.models import SudokuEquilibrium
from deqzoo.models.puzzle.sudoku_answers import keeps_rules, read_puzzle
from deqzoo.models.puzzle.sudoku_cell import SudokuCell
from deqzoo.models.puzzle.sudoku_check import STARTS, answers, check_rows, check_text
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    *("data.train_size=1200", "data.val_size=20", "data.test_size=60", "data.batch_size=30", "model.width=12"),
    *("trainer.max_epochs=3", "trainer.enable_progress_bar=False"),
]
NINE = [
    *("data.train_size=24", "data.val_size=4", "data.test_size=4", "data.batch_size=8", "data.collections=false"),
    *("model.width=4", "model.hidden=8", "model.solver_options.max_steps=20", "model.lead=3", "model.lead_from=0"),
    *("trainer.max_epochs=1", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=False"),
]
SOLVED = "1234341221434321"


@pytest.mark.parametrize("digit_symmetry", [True, False])
@pytest.mark.parametrize("side", [4, 9])
def test_the_cell_is_the_same_for_rows_columns_and_digits_that_are_moved(side, digit_symmetry):
    torch.manual_seed(0)
    cell = SudokuCell(side, width=6, hidden=10, digit_symmetry=digit_symmetry)
    puzzles = torch.randint(0, side + 1, (3, side, side))
    z = cell.initial_state(cell.inject(puzzles))
    box = cell.box
    rows = torch.cat([torch.randperm(box) + box * band for band in torch.randperm(box)])
    columns = torch.cat([torch.randperm(box) + box * stack for stack in torch.randperm(box)])
    image = cell(z, cell.inject(puzzles))
    moved = cell(z[:, rows][:, :, columns], cell.inject(puzzles[:, rows][:, :, columns]))
    torch.testing.assert_close(moved, image[:, rows][:, :, columns])
    turned = cell(z.transpose(1, 2), cell.inject(puzzles.mT))
    torch.testing.assert_close(turned, image.transpose(1, 2))
    order = torch.randperm(side).roll(1)  # state k of the new puzzle is that of digit order[k]
    names = torch.cat([torch.zeros(1, dtype=torch.long), order.argsort() + 1])
    if digit_symmetry:
        renamed = cell(z[:, :, :, order], cell.inject(names[puzzles]))
        torch.testing.assert_close(renamed, image[:, :, :, order])
    other = rows.roll(1)  # no symmetry: rows change their bands
    assert not torch.allclose(cell(z[:, other], cell.inject(puzzles[:, other])), image[:, other], atol=1e-3)


def test_each_puzzle_is_solved_by_itself_and_from_the_same_noise():
    torch.manual_seed(0)
    network = SudokuEquilibrium(4, width=6, hidden=8).eval()
    network.deq.on_failure = "ignore"
    puzzles = torch.randint(0, 5, (3, 4, 4))
    together, alone = network(puzzles), torch.cat([network(puzzle[None]) for puzzle in puzzles])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(
        network.deq.cell.initial_state(network.deq.cell.inject(puzzles), torch.Generator())[0],
        network.deq.cell.initial_state(network.deq.cell.inject(puzzles), torch.Generator())[2],
    )


def test_an_exhausted_budget_is_told_and_no_puzzle_is_none():
    network = SudokuEquilibrium(4, width=6, hidden=8, solver=Picard(damping=0.7, tol=1e-7, max_steps=2)).eval()
    with pytest.warns(NonConvergenceWarning):
        network(torch.zeros(2, 4, 4, dtype=torch.long))
    assert network(torch.zeros(0, 4, 4, dtype=torch.long)).shape == (0, 4, 4, 4)


def test_gradients_flow_through_the_last_steps_alone():
    torch.manual_seed(0)
    network = SudokuEquilibrium(4, width=6, hidden=8)
    puzzles = torch.randint(0, 5, (3, 4, 4))
    ways = [list(network.iterates(puzzles, 2, 0.7, lead=lead, start=1)) for lead in (0, 3)]
    whole = list(network.iterates(puzzles, 5, 0.7, start=1))
    torch.testing.assert_close(ways[1], whole[3:])
    torch.testing.assert_close(ways[0], whole[:2])
    grads = [
        torch.autograd.grad(z.square().mean() + z.sum(), network.deq.cell.own.weight, retain_graph=True)[0]
        for z in (ways[1][-1], whole[-1])
    ]
    assert not torch.allclose(*grads)
    network.read(whole[-1]).square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on 4 x 4 cells, of 120 steps."""
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("runs") / "deq", "model=deq_sudoku4", *SMALL)


def test_a_short_training_solves_most_small_puzzles(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    test, check = metrics["test"], metrics["sudoku_equilibrium_check"]
    assert test["n"] == 60
    assert test["puzzles_solved"] > 0.5  # 0 before
    found = check["sets"]["test"]
    assert found["solved"] == pytest.approx(test["puzzles_solved"], abs=0.02)
    assert (found["n"], found["fewest"], found["most"]) == (60, 4, 8)
    assert list(found["over_nfe"]) == ["16", "32", "64", "128"]
    assert list(found["over_starts"]) == list(found["rules"]) == [str(count) for count in STARTS]
    assert found["rules"]["5"] >= found["over_starts"]["1"] == found["solved"]
    columns = set().union(*read_history(finished.folder / "metrics.csv"))
    assert {"train/puzzles_solved", "val/puzzles_solved", "val/nfe", "val/unconverged", "train/settling"} <= columns
    settling = [
        row["train/settling"] for row in read_history(finished.folder / "metrics.csv") if "train/settling" in row
    ]
    assert settling[-1] < settling[0] - 0.5  # the residuals fall, by 40 % at least
    assert test["unconverged"] < 0.2


def test_the_card_and_the_plots(finished):
    card = (finished.folder / "export" / "README.md").read_text()
    for words in ("60 test puzzles of `sudoku4`", "chosen by convergence and residual alone", "one of two but for"):
        assert words in card
    drawn = {path.name: path.stat().st_size for path in (finished.folder / "plots").iterdir()}
    assert drawn.keys() == {"training.png", "solved.png", "solving.gif"}
    assert max(drawn.values()) < 200_000


def test_the_export_solves_puzzles(finished):
    inputs, output = read_golden(finished.folder / "export")
    network = deqzoo.load(finished.folder / "export")
    torch.testing.assert_close(network(**inputs), output, rtol=1e-3, atol=1e-3)
    answer = network.solve("12343412214.....")
    assert (str(answer), answer.valid, answer.converged) == (SOLVED, True, True)
    assert answer.residual <= 1e-4
    for same in ([1, 2, 3, 4], np.array([1, 2, 3, 4]), torch.tensor([1, 2, 3, 4])):
        assert str(network.solve([*same, *map(int, "34122140000"), 0])) == SOLVED
    assert str(network.solve(np.array(list(map(int, SOLVED)), np.uint8).reshape(4, 4))) == SOLVED
    short = deqzoo.load(finished.folder / "export", max_steps=2)
    answer = short.solve(16 * ".", restarts=3)
    assert not answer.converged
    assert answer.residual == min(short.solve(16 * ".", seed=seed).residual for seed in range(4))
    impossible = network.solve("123." + "...4" + 8 * ".", restarts=2, choose="rules")  # no digit for the fourth cell
    assert not impossible.valid
    assert keeps_rules(impossible.digits[None]).item() is False


def test_answers_of_several_starts_are_those_of_single_ones(finished):
    network = finished.module.trained_network.eval()
    short = dataclasses.replace(network.deq.solver, max_steps=6)
    puzzles = finished.data.tensors[0][:40], finished.data.tensors[1][:40]
    network.deq.solver, own = short, network.deq.solver
    try:
        first, second = (answers(network, puzzles, start) for start in (0, 1))
        assert not torch.equal(first.residual, second.residual)
        one = network.solve(puzzles[0][3])
        assert one.residual == pytest.approx(first.residual[3].item(), rel=1e-3)
    finally:
        network.deq.solver = own
    assert torch.equal(answers(network, puzzles).right & ~answers(network, puzzles).valid, torch.zeros(40, dtype=bool))


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    """Finished runs of three steps on 9 x 9 cells: without digit symmetry, and with it, beside that."""
    torch.set_num_threads(1)
    folder, root = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("data")
    words = [*NINE, f"data.root={root}"]
    tokens = run(folder / "tokens", "model=deq_sudoku_tokens", *words)
    return run(folder / "cube", "model=deq_sudoku", *words, f"model.baseline={tokens.folder / 'export'}"), tokens


def test_nine_digits_and_the_baseline(nine):
    cube, tokens = nine
    check = cube.metrics["sudoku_equilibrium_check"]
    assert list(check["sets"]) == ["test", "25-30"]
    assert check["baseline"]["parameters"] == tokens.metrics["parameters"]
    assert check["baseline"]["solved"].keys() == check["sets"].keys()
    rows = check_rows(check)
    assert "31 to 42 digits" not in check_text(check | {"side": 4})
    assert any("at least 99.7 %" in row for row in rows)
    assert "not a like-for-like win" in (cube.folder / "export" / "README.md").read_text()
    assert deqzoo.load(tokens.folder / "export")(torch.zeros(1, 9, 9, dtype=torch.long)).shape == (1, 9, 9, 9)


@pytest.mark.parametrize(
    ("puzzle", "told"),
    [
        (15 * ".", "a puzzle has 16 characters, one for each cell, row after row; got 15"),
        (15 * "." + "5", "character 16 of the puzzle is '5'; valid are the digits 1 to 4"),
        ("1..1" + 12 * ".", "the puzzle contradicts itself: the digit 1 stands twice in row 1"),
        ("...3....3..3....", "the digit 3 stands twice in row 3"),
        ("...3...." + "...3....", "the digit 3 stands twice in column 4"),
        ("2....2.." + 8 * ".", "the digit 2 stands twice in box 1"),
        (torch.zeros(4, 4), "the cells of a puzzle are integers, 0 for an empty one; got torch.float32"),
        (torch.zeros(3, 4, dtype=torch.long), r"a puzzle is \(4, 4\), or flat, \(16,\); got \(3, 4\)"),
        ([5] + 15 * [0], "the cells of a puzzle are 1 to 4, 0 for an empty one; got 0 to 5"),
        ([-1] + 15 * [0], "got -1 to 0"),
    ],
)
def test_malformed_and_contradictory_puzzles(puzzle, told):
    with pytest.raises(ValueError, match=told):
        SudokuEquilibrium(4, width=4, hidden=4).eval().solve(puzzle)


def test_wrong_arguments_of_solve():
    network = SudokuEquilibrium(4, width=4, hidden=4).eval()
    with pytest.raises(ValueError, match="choose must be 'residual' or 'rules', got 'luck'"):
        network.solve(16 * ".", choose="luck")
    with pytest.raises(ValueError, match="restarts must not be negative, got -1"):
        network.solve(16 * ".", restarts=-1)
    with pytest.raises(RuntimeError, match=r"call \.eval\(\) first"):
        network.train().solve(16 * ".")


@pytest.mark.parametrize("digit_symmetry", [True, False])
def test_what_a_network_is_given_is_looked_at(digit_symmetry):
    network = SudokuEquilibrium(4, width=4, hidden=4, digit_symmetry=digit_symmetry).eval()
    puzzles = torch.randint(5, (2, 4, 4))
    network.deq.on_failure = "ignore"
    torch.testing.assert_close(network(puzzles.to(torch.uint8)), network(puzzles))
    for wrong, told in (
        (puzzles + 0.5, "are integers, digits from 1"),
        (puzzles > 0, "got torch.bool"),
        (puzzles.index_fill(1, torch.tensor([0]), 5), "digits from 1, and 0 for an empty cell; got 0 to 5"),
        (puzzles.index_fill(1, torch.tensor([0]), -1), "got -1 to"),
        (puzzles.view(2, 16, 1), r"puzzles are \(B, 4, 4\); got \(2, 16, 1\)"),
        (puzzles[0], r"got \(4, 4\)"),
    ):
        with pytest.raises(ValueError, match=told):
            network(wrong)
    assert read_puzzle(["1...", "....", "....", "...2"], side=4).sum() == 3


def test_puzzles_over_several_lines():
    assert read_puzzle("1...\n....\n....\n...2\n", side=4).flatten().tolist() == [1, *14 * [0], 2]


def test_rules():
    grids = sudoku_grids().view(-1, 4, 4)
    assert keeps_rules(grids).all()
    wrong = grids.clone()
    wrong[:, 0, 0] = wrong[:, 0, 1]
    assert not keeps_rules(wrong).any()
    rows = torch.arange(1, 5).repeat(4, 1)
    latin = torch.stack([row.roll(i) for i, row in enumerate(rows)])  # rows and columns, but no boxes
    assert keeps_rules(torch.stack([rows, rows.T, latin])).tolist() == [False, False, False]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.depth=1"], r"depth must be at least 2, .* got 1, 48 and 4"),
        (["model.loss_every=17"], r"loss_every between 1 and depth; got 16, 48 and 17"),
        (["model.lead=-1"], r"lead not negative"),
        (["model.damping=0"], r"damping must lie in \(0, 1\]"),
        (["model.lead_from=2"], r"lead_from and settle_from must lie in \[0, 1\], .* got 2\.0, 0\.75 and 0\.01"),
        (["model.settle=-1"], r"settle not be negative; got 0\.6, 0\.75 and -1"),
        (["model.width=1"], r"model\.width must be at least 2"),
        (["model.solver=simplex"], r"model\.solver=simplex: valid are"),
        (["data=digits"], r"data=digits has images; model=deq_sudoku .* needs puzzles"),
    ],
)
def test_wrong_value_stops_the_run_before_training(overrides, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=deq_sudoku", *overrides), tmp_path)
