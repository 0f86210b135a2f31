"""Solvers of Sudoku: with the rules as constraints each puzzle is solved; a short training comes nearer to them."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.sudoku import draw_sudokus, sudoku_grids
from deqzoo.errors import ConfigError
from deqzoo.implicit import InteriorPoint, NonConvergenceWarning
from deqzoo.models import SudokuConvNet, SudokuProgram
from deqzoo.models.optimisation.check import row_space, sudoku_rules
from deqzoo.nn import use_solver
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo import CheckpointError
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    *("data.train_size=1200", "data.val_size=20", "data.test_size=60", "data.batch_size=40"),
    *("trainer.max_epochs=1", "trainer.enable_progress_bar=False"),
]


def with_the_rules():
    """A program whose constraints are 40 independent ones of the rules."""
    rows = []
    for rule in sudoku_rules():
        if not rows or torch.linalg.matrix_rank(torch.stack([*rows, rule])) > len(rows):
            rows.append(rule)
    network = SudokuProgram(4)
    with torch.no_grad():
        network.program.matrix.copy_(torch.stack(rows))
    return network


def test_with_the_rules_as_constraints_each_puzzle_is_solved():
    puzzles, solutions = draw_sudokus(torch.arange(288), 60, 4, 4, torch.Generator().manual_seed(2)).unbind(1)
    network = with_the_rules()
    scores = network(puzzles.view(-1, 4, 4))
    assert torch.equal(scores.argmax(-1) + 1, solutions.view(-1, 4, 4))
    torch.testing.assert_close(scores.sum(-1), torch.ones(60, 4, 4))
    with use_solver(network, InteriorPoint(max_steps=1)), pytest.warns(NonConvergenceWarning):
        network(puzzles.view(-1, 4, 4))


def test_row_spaces_do_not_depend_on_how_constraints_are_written():
    rules = sudoku_rules()
    torch.testing.assert_close(row_space(torch.randn(70, 64).double() @ rules), row_space(rules))
    assert row_space(rules).trace().item() == pytest.approx(40)
    assert (rules @ torch.nn.functional.one_hot(sudoku_grids() - 1, 4).flatten(1).double().T == 1).all()


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("runs") / "conv", "model=conv_sudoku4", *SMALL, "model.width=8")


@pytest.fixture(scope="module")
def finished(baseline, tmp_path_factory):
    """A finished run of 30 steps."""
    folder = tmp_path_factory.mktemp("runs") / "program"
    return run(folder, "model=optnet_sudoku4", *SMALL, f"model.baseline={baseline.folder / 'export'}")


def test_a_short_training_comes_nearer_to_the_rules(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    test, check = metrics["test"], metrics["sudoku_check"]
    assert test["n"] == 60
    assert test["loss"] < 0.18  # 0.20 before
    assert test["cells_wrong"] < 0.53  # 0.56 before
    assert test["unconverged"] == 0
    assert 5 < test["iterations"] < 25
    assert check["rules_missing"] < check["rules_missing_untrained"] - 0.08
    assert check["untrained"] == 1
    assert sum(part["n"] for part in check["givens"]) == 60
    columns = set().union(*read_history(finished.folder / "metrics.csv"))
    assert {"train/iterations", "train/residual_backward", "val/puzzles_wrong", "train/unconverged"} <= columns


def test_the_card_and_the_plots(finished, baseline):
    card = (finished.folder / "export" / "README.md").read_text()
    for words in ("60 test puzzles of `sudoku4`", "40 learned equalities", "explicit baseline", "288 solution grids"):
        assert words in card
    drawn = {path.name: path.stat().st_size for path in (finished.folder / "plots").iterdir()}
    assert drawn.keys() == {"training.png", "constraints.png", "puzzle.png"}
    assert max(drawn.values()) < 200_000
    assert {path.name for path in (baseline.folder / "plots").iterdir()} == {"training.png"}
    of_baseline = finished.metrics["sudoku_check"]["baseline"]
    assert of_baseline["puzzles_wrong"] == baseline.metrics["test"]["puzzles_wrong"]
    assert of_baseline["parameters"] == baseline.metrics["parameters"]


def test_exports_load(finished, baseline):
    for entry in (finished, baseline):
        inputs, output = read_golden(entry.folder / "export")
        torch.testing.assert_close(deqzoo.load(entry.folder / "export")(**inputs), output, rtol=1e-4, atol=1e-5)
    loose = deqzoo.load(finished.folder / "export", tol=1e-7, max_steps=30)
    assert loose.program.solver == InteriorPoint(tol=1e-7, max_steps=30)
    inputs, output = read_golden(finished.folder / "export")
    torch.testing.assert_close(loose(**inputs), output, rtol=0, atol=1e-3)
    with pytest.raises(CheckpointError, match=r"model\.solver=anderson: valid are interior_point"):
        deqzoo.load(finished.folder / "export", solver="anderson")
    with pytest.raises(CheckpointError, match="has no solver to choose"):
        deqzoo.load(baseline.folder / "export", tol=1e-3)


def test_gradient_reaches_every_parameter_of_the_baseline():
    torch.manual_seed(0)
    network = SudokuConvNet(4, width=8, depth=3)
    network(torch.randint(0, 5, (6, 4, 4))).square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.constraints=65"], r"model\.constraints must lie between 1 and the 64 features, got 65"),
        (["model.solver=simplex"], r"model\.solver=simplex: valid are interior_point"),
        (["model.solver_options.tol=-1"], r"model\.solver=interior_point: tol must be a number >= 0"),
        (["model=conv_sudoku4", "model.depth=1"], r"model\.depth must be at least 2, got 1"),
        (["data=digits"], r"data=digits has images; model=optnet_sudoku4 .* needs puzzles"),
        (["model=deq_digits", "data=sudoku4"], r"data=sudoku4 has puzzles; model=deq_digits .* needs images"),
    ],
)
def test_wrong_value_stops_the_run_before_training(overrides, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=optnet_sudoku4", *overrides), tmp_path)
