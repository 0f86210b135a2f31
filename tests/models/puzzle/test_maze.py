"""Equilibria that find shortest paths: symmetry of the cell, a short training, what `solve` answers and refuses."""

import json

import numpy as np
import pytest
import torch

import deqzoo
from deqzoo.errors import ConfigError
from deqzoo.implicit import NonConvergenceWarning, Picard
from deqzoo.models import MazeEquilibrium, MazeLayers
from deqzoo.models.puzzle.maze_answers import join, read_maze
from deqzoo.models.puzzle.maze_cell import MazeCell
from deqzoo.models.puzzle.maze_check import check_rows, check_text
from deqzoo.models.puzzle.module import MazeModule
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

DATA = [
    *("data.sides=[7]", "data.test_side=9", "data.other_sides=[7]", "data.train_size=800", "data.val_size=12"),
    *("data.test_size=20", "data.other_size=10", "trainer.enable_progress_bar=False", "trainer.max_epochs=6"),
    *("data.loops=0.3", "trainer.log_every_n_steps=10", "trainer.check_val_every_n_epoch=3", "model.lr=1e-2"),
    "model.ema_decay=0.9",
]
SMALL = [
    *(*DATA, "model.width=12", "model.hidden=24", "model.depth=12", "model.lead=16", "model.settle_after=4"),
    "model.solver_options.max_steps=100",
]
MAZE = """
#########
#S......#
#.###.#.#
#.#...#.#
#.#.###.#
#...#..G#
#########
"""


def random_mazes(count, height, width):
    mazes = (torch.rand(count, height, width) < 0.7).long()
    mazes[:, 0, 0], mazes[:, -1, -1] = 2, 3
    return mazes


def test_the_cell_is_the_same_for_mazes_that_are_turned_mirrored_or_put_into_walls():
    torch.manual_seed(0)
    cell = MazeCell(width=6, hidden=10)
    mazes = random_mazes(3, 6, 9)
    z = torch.randn(3, 6, 9, 6) * (mazes > 0).unsqueeze(-1)
    image = cell(z, cell.inject(mazes))
    assert (image[mazes == 0] == 0).all()
    for change in (lambda t: t.transpose(1, 2), lambda t: t.flip(1), lambda t: t.rot90(1, (1, 2))):
        torch.testing.assert_close(cell(change(z), cell.inject(change(mazes))), change(image))
    walled = torch.zeros(3, 9, 12, dtype=torch.long)
    walled[:, 2:8, 1:10] = mazes
    inside = torch.zeros(3, 9, 12, 6)
    inside[:, 2:8, 1:10] = z
    torch.testing.assert_close(cell(inside, cell.inject(walled))[:, 2:8, 1:10], image)


def test_a_cell_hears_its_neighbours_alone_and_no_walls():
    torch.manual_seed(0)
    cell = MazeCell(width=6, hidden=10)
    mazes = torch.ones(1, 5, 5, dtype=torch.long)
    mazes[0, 2, 1] = 0
    z = torch.randn(1, 5, 5, 6)
    other = z.clone()
    other[0, 2, 2] += 1
    changed = (cell(z, cell.inject(mazes)) != cell(other, cell.inject(mazes))).any(-1)[0]
    assert {tuple(place) for place in changed.nonzero().tolist()} == {(2, 2), (1, 2), (3, 2), (2, 3)}
    behind = z.clone()
    behind[0, 2, 1] += 1  # the state of a wall
    torch.testing.assert_close(cell(z, cell.inject(mazes)), cell(behind, cell.inject(mazes)))


def test_each_maze_is_solved_by_itself():
    torch.manual_seed(0)
    network = MazeEquilibrium(width=6, hidden=8).eval()
    network.deq.on_failure = "ignore"
    mazes = random_mazes(3, 5, 7)
    together, alone = network(mazes), torch.cat([network(maze[None]) for maze in mazes])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert torch.equal(network(mazes, start=1), together)
    assert network(torch.zeros(0, 5, 7, dtype=torch.long)).shape == (0, 5, 7)


def test_an_exhausted_budget_is_told():
    network = MazeEquilibrium(width=6, hidden=8, solver=Picard(damping=0.8, tol=1e-7, max_steps=2)).eval()
    with pytest.warns(NonConvergenceWarning):
        network(random_mazes(2, 5, 5))


def test_layers_have_weights_of_their_own_and_reach_no_further_than_their_number():
    torch.manual_seed(0)
    network = MazeLayers(width=4, hidden=6, depth=3)
    each = sum(p.numel() for p in MazeCell(width=4, hidden=6).parameters())
    assert sum(p.numel() for p in network.parameters()) == 3 * each + 5
    mazes = torch.ones(1, 1, 9, dtype=torch.long)
    other = mazes.clone()
    other[0, 0, 0] = 2
    changed = (network(mazes) != network(other))[0, 0]
    assert not changed[4:].any()
    network(mazes).square().sum().backward()
    assert all(layer.own.weight.grad.any() for layer in network.layers[1:])  # the first one starts from zeros
    assert all(layer.heard.weight.grad.any() for layer in network.layers)


def test_walls_are_not_asked_for():
    network, mazes = MazeEquilibrium(width=4, hidden=4), random_mazes(2, 5, 5)
    module = MazeModule(network)
    paths = mazes >= 2
    scores = torch.where(paths, 5.0, -5.0)
    other = torch.where(mazes == 0, 100.0, scores)
    assert torch.equal(module.loss(scores, mazes, paths), module.loss(other, mazes, paths))
    assert not network.wrong(other, mazes, paths).any()
    other[0, 0, 0] = -5.0
    assert network.wrong(other, mazes, paths).nonzero().tolist() == [[0, 0, 0]]
    assert module.loss(other, mazes, paths) > module.loss(scores, mazes, paths)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs of some steps on little mazes: layers, and an equilibrium beside them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    layers = run(folder / "layers", "model=layers_maze", *DATA, "model.depth=6", "model.loss_every=4")
    return run(folder / "deq", "model=deq_maze", *SMALL, f"model.baseline={layers.folder / 'export'}"), layers


def test_a_short_training_finds_short_paths(finished):
    deq, layers = finished
    metrics = json.loads((deq.folder / "metrics.json").read_text())
    test, check = metrics["test"], metrics["maze_check"]
    assert test["n"] == 20
    assert list(check["sets"]) == ["7", "9"]
    found = check["sets"]["9"]
    assert found["solved"] == pytest.approx(test["puzzles_solved"])
    assert list(found["over_nfe"]) == ["14", "28", "56", "112"]
    assert (check["side"], found["n"]) == (7, 20)
    assert 2 <= found["length"] <= found["most"]
    assert check["baseline"]["parameters"] == layers.metrics["parameters"]
    assert check["baseline"]["solved"]["9"] == pytest.approx(layers.metrics["test"]["puzzles_solved"])
    rows = read_history(deq.folder / "metrics.csv")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert {"train/puzzles_solved", "val/puzzles_solved", "val/nfe", "val/unconverged"} <= set().union(*rows)
    assert any("train/settling" in row for row in rows)


def test_the_card_and_the_plots(finished):
    deq, layers = finished
    card = (deq.folder / "export" / "README.md").read_text()
    for words in (
        "20 test mazes of `mazes`",
        "found by filling dead ends",
        "whole mazes right, at most",
        "steps in the mean",
    ):
        assert words in card
    drawn = {path.name: path.stat().st_size for path in (deq.folder / "plots").iterdir()}
    assert drawn.keys() == {"training.png", "mazes.png", "wave.png", "solving.gif"}
    assert max(drawn.values()) < 200_000
    assert {path.name for path in (layers.folder / "plots").iterdir()} == {"training.png"}


def test_the_bar_is_asked_of_mazes_of_twice_the_side_alone(finished):
    check = json.loads((finished[0].folder / "metrics.json").read_text())["maze_check"]
    assert not any("90 %" in required for _, _, required in check_rows(check))
    twice = check | {"side": 4}  # of whose double side the mazes of 9 x 9 are
    assert [what[:5] for what, _, required in check_rows(twice) if "90 %" in required] == ["9 x 9"]
    assert "at most 4 x 4 cells" in check_text(twice)
    assert check_rows({key: check[key] for key in check if key != "baseline"})


def test_the_export_solves_mazes(finished):
    for each in finished:
        inputs, output = read_golden(each.folder / "export")
        torch.testing.assert_close(deqzoo.load(each.folder / "export")(**inputs), output, rtol=1e-3, atol=1e-3)
    network = deqzoo.load(finished[0].folder / "export", tol=1e-3, max_steps=200)
    near = network.solve("#####\n#S.G#\n#####")
    assert near.cells.tolist() == [[False] * 5, [False, True, True, True, False], [False] * 5]
    assert (str(near), near.valid, near.steps) == ("#####\n#S*G#\n#####", True, 2)
    assert near.residual <= 1e-3
    assert near.converged
    assert 0 < near.evaluations <= 200
    for same in ([[2, 1, 3]], np.array([[2, 1, 3]], np.uint8), torch.tensor([[2, 1, 3]]), "S G\n"):
        assert network.solve(same).cells.tolist() == [[True] * 3]
    cut = deqzoo.load(finished[0].folder / "export", max_steps=1).solve(MAZE)
    assert not cut.converged
    assert cut.evaluations == 1


def test_ways_through_cells():
    maze = read_maze(MAZE)
    steps, cells = join(maze > 0, maze)
    assert (steps, cells.sum().item()) == (10, 11)  # the way round on the right alone
    open_ = read_maze("S..\n...\n..G")
    steps, cells = join(open_ > 0, open_)
    assert (steps, cells.all().item()) == (4, True)  # all cells lie on one of six ways
    part = (open_ > 0) & torch.tensor([[1, 1, 1], [0, 0, 1], [1, 0, 1]], dtype=torch.bool)
    steps, cells = join(part, open_)
    assert (steps, cells.sum().item()) == (4, 5)  # one cell is of no use
    assert join(open_ > 1, open_)[0] is None


@pytest.mark.parametrize(
    ("maze", "told"),
    [
        ("S.x\n..G", "line 1, character 3 of the maze is 'x'; valid are # for a wall"),
        ("..\n.G", r"a maze has one start \(S, or 2 in an array\); this one has 0"),
        ("S.\n.S", "one start .* has 2"),
        ("S.\n..", r"a maze has one goal \(G, or 3 in an array\); this one has 0"),
        ("SG\nG.", "one goal .* has 2"),
        ("S#\n#G", "the goal cannot be reached from the start: walls lie between them"),
        ("S.#\n..#\n####G", "the goal cannot be reached"),
        ("", "with a cell at least"),
        ([2, 1, 3], r"a maze is \(height, width\), with a cell at least; got \(3,\)"),
        ([[2, 1, 4]], "0 wall, 1 free, 2 start, 3 goal; got 1 to 4"),
        ([[2, -1, 3]], "got -1 to 3"),
        (torch.zeros(3, 3), "the cells of a maze are integers, .* got torch.float32"),
        (torch.ones(3, 3, dtype=torch.bool), "got torch.bool"),
    ],
)
def test_malformed_mazes(maze, told):
    with pytest.raises(ValueError, match=told):
        MazeEquilibrium(width=4, hidden=4).eval().solve(maze)


def test_lines_that_are_short_end_in_walls():
    assert read_maze("\nS.\n ...\r\n#.G\n").tolist() == [[2, 1, 0, 0], [1, 1, 1, 1], [0, 1, 3, 0]]


@pytest.mark.parametrize(
    ("model", "overrides", "told"),
    [
        ("deq_maze", ["model.width=1"], r"model\.width must be at least 2"),
        ("deq_maze", ["model.lead_full=0.01"], r"lead_full must lie in \[lead_from, 1\], got 0\.01"),
        ("deq_maze", ["model.settle_after=90"], "settle_after must be at most lead, got 90 and 80"),
        ("deq_maze", ["data=digits"], r"data=digits has images; model=deq_maze .* needs mazes"),
        ("deq_maze", ["data.sides=[10]"], "the side of a maze .* got 10"),
        ("layers_maze", ["model.depth=0"], "depth must be at least 1, and loss_every between 1 and depth; got 0 and 4"),
        ("layers_maze", ["model.loss_every=17"], "got 16 and 17"),
    ],
)
def test_wrong_value_stops_the_run_before_training(model, overrides, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed(f"model={model}", *overrides), tmp_path)
