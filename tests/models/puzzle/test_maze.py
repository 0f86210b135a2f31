"""Value iteration in mazes: it contracts, learns from small mazes, and tells what it answers and refuses."""

import json

import numpy as np
import pytest
import torch

import deqzoo
from deqzoo.data.maze_generator import draw_ends, draw_mazes, optimal_moves, shortest_paths
from deqzoo.errors import ConfigError
from deqzoo.implicit import NonConvergenceWarning, Picard, make_adjoint
from deqzoo.models import MazeLayers, MazePlanner
from deqzoo.models.puzzle.maze_answers import read_maze
from deqzoo.models.puzzle.maze_cell import LEAST, SHARPNESS, ValueIteration
from deqzoo.models.puzzle.maze_check import check_rows, check_text
from deqzoo.models.puzzle.maze_module import MazeModule
from deqzoo.models.puzzle.maze_moves import follow, wrong_on_the_way
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

DATA = [
    *("data.sides=[7]", "data.test_side=9", "data.other_sides=[7]", "data.train_size=960", "data.val_size=12"),
    *("data.test_size=20", "data.other_size=10", "trainer.enable_progress_bar=False", "trainer.max_epochs=1"),
    *("data.loops=0.3", "data.batch_size=16", "trainer.log_every_n_steps=5"),
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


def moves_of(mazes):
    """The optimal moves of mazes, as the data have them."""
    cells = mazes.numpy()
    return torch.from_numpy(optimal_moves(cells != 0, np.argwhere(cells == 3)[:, 1:]))


def random_mazes(count, height, width):
    mazes = (torch.rand(count, height, width) < 0.7).long()
    mazes[:, 0, 0], mazes[:, -1, -1] = 2, 3
    return mazes


def told_planner(discount=0.99):
    """A network whose weights are those of an exact planner, written by hand: one action, turned to be each move."""
    network = MazePlanner(actions=1, hidden=2, discount=discount).eval()
    cell = network.deq.cell
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        cell.kernels[0, 0, 1] = 60 / SHARPNESS  # up
        cell.look.weight[0, 1:, 1, 1] = 1  # no wall here
        cell.look.weight[1, 3, 1, 1] = 1  # the goal
        cell.tell.weight[0, 0], cell.tell.bias[0] = 120, -60
        cell.tell.weight[1, 1], cell.tell.bias[1] = 20, -20
        network.head[0] = 1
    return network


def test_the_cell_contracts_by_the_discount_in_the_maximum_norm():
    torch.manual_seed(0)
    cell = ValueIteration(actions=5, hidden=6, discount=0.9)
    torch.nn.init.normal_(cell.kernels, std=2.0)
    torch.nn.init.normal_(cell.tell.weight, std=5.0)
    x = cell.inject(random_mazes(50, 6, 9))
    v, w = 10 * torch.randn(2, 50, 1, 6, 9)
    before, after = (v - w).flatten(1).abs().amax(1), (cell(v, x) - cell(w, x)).flatten(1).abs().amax(1)
    assert (after <= 0.9 * before * (1 + 1e-6)).all()
    assert (after > 0.3 * before).any()  # else the bound would say little
    low, high = torch.minimum(v, w), torch.maximum(v, w)
    assert (cell(low, x) <= cell(high, x) + 1e-6).all()
    torch.testing.assert_close(cell.probabilities().sum((1, 2)), torch.ones(4 * 5))


@pytest.mark.parametrize("actions", [1, 3, 5])
def test_where_a_maze_is_turned_the_moves_are_turned(actions):
    torch.manual_seed(0)
    network, mazes = MazePlanner(actions=actions, hidden=6, discount=0.9).double().eval(), random_mazes(3, 6, 9)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    scores, turned = network(mazes), network(torch.rot90(mazes, 1, (1, 2)))
    up, down, left, right = (torch.rot90(of_move, 1, (1, 2)) for of_move in scores.unbind(1))
    torch.testing.assert_close(turned, torch.stack([right, left, up, down], 1))  # what was to the right is up


def test_any_start_leads_to_the_one_fixed_point():
    torch.manual_seed(0)
    network = MazePlanner(actions=5, hidden=6, discount=0.9).eval()
    assert network.deq.certified
    x = network.deq.cell.inject(random_mazes(3, 6, 9))
    zeros = network.deq(x)
    torch.testing.assert_close(network.deq(x, 100 * torch.randn(3, 1, 6, 9)), zeros, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_many_unrolled_steps():
    torch.manual_seed(0)
    network, mazes = MazePlanner(actions=5, hidden=6, discount=0.9).double(), random_mazes(3, 5, 7)
    torch.nn.init.normal_(network.head)  # zeros at first
    module, optimal = MazeModule(network), moves_of(mazes)
    gradients = []
    for adjoint in ("implicit", "unrolled"):
        other = MazePlanner(
            actions=5,
            hidden=6,
            discount=0.9,
            solver=Picard(tol=1e-13, max_steps=600, patience=600),
            adjoint=make_adjoint(adjoint),
        ).double()
        other.load_state_dict(network.state_dict())
        module.loss(other(mazes), optimal).backward()
        gradients.append([p.grad for p in other.parameters()])
    for implicit, unrolled in zip(*gradients, strict=True):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-6, atol=1e-9)
    assert all(grad.any() for grad in gradients[0])


def test_a_planner_that_knows_the_moves_is_right_in_mazes_of_any_size():
    random = np.random.default_rng(0)
    free = draw_mazes(10, 25, 0.15, random)
    start, goal = draw_ends(free, random)
    mazes = torch.from_numpy(free).long()
    mazes[range(10), start[:, 0], start[:, 1]], mazes[range(10), goal[:, 0], goal[:, 1]] = 2, 3
    network = told_planner()
    scores, optimal = network(mazes), moves_of(mazes)
    assert network.deq.solution.converged.all()
    assert (optimal.gather(1, scores.argmax(1, keepdim=True))[:, 0] == optimal.any(1)).all()
    assert not network.wrong(scores, mazes, optimal).any()
    visited, arrived = follow(scores.argmax(1), mazes)
    paths = torch.from_numpy(shortest_paths(free, start, goal))
    assert arrived.all()
    assert not (visited & ~paths).any()
    short = told_planner()
    short.deq.solver = Picard(max_steps=5, stop="never")
    assert wrong_on_the_way(short(mazes), mazes, optimal).flatten(1).any(1).sum() > 5  # values have come five cells far


def test_each_maze_is_solved_by_itself_and_beyond_its_edges_are_walls():
    torch.manual_seed(0)
    network, mazes = MazePlanner(actions=4, hidden=8).eval(), random_mazes(3, 5, 7)
    torch.nn.init.normal_(network.head)  # zeros at first
    together, alone = network(mazes), torch.cat([network(maze[None]) for maze in mazes])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert network(torch.zeros(0, 5, 7, dtype=torch.long)).shape == (0, 4, 5, 7)
    torch.nn.init.normal_(network.deq.cell.tell.weight)  # all cells earn 1 at first
    edged = torch.nn.functional.pad(mazes, (2, 2, 2, 2))
    for inside, outside in zip(network.deq.cell.inject(mazes), network.deq.cell.inject(edged), strict=True):
        torch.testing.assert_close(inside, outside[..., 2:-2, 2:-2])


def test_no_cell_earns_more_than_the_best_that_is_no_wall():
    torch.manual_seed(0)
    cell, mazes = MazePlanner(actions=1, hidden=8).deq.cell, random_mazes(3, 5, 7)
    mazes[0] = 0  # nothing but walls
    torch.nn.init.normal_(cell.tell.weight, std=1e3)  # e is far apart, of walls too: its exponential overflows
    earned = cell.inject(mazes)[1].flatten(1)
    assert torch.isfinite(earned).all()
    torch.testing.assert_close(earned[1:].amax(1), torch.full((2,), 1 - LEAST))
    assert earned[mazes.flatten(1) == 0].max() <= 1 - LEAST
    cell.inject(mazes)[1].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in cell.parameters() if p.grad is not None)


def test_an_exhausted_budget_is_told():
    network = MazePlanner(actions=4, hidden=8, solver=Picard(tol=1e-9, max_steps=2)).eval()
    with pytest.warns(NonConvergenceWarning):
        network(random_mazes(2, 5, 5))


def test_convolutions_reach_no_further_than_their_number():
    torch.manual_seed(0)
    network = MazeLayers(width=4, depth=3)
    mazes = torch.ones(1, 1, 9, dtype=torch.long)
    other = mazes.clone()
    other[0, 0, 0] = 2
    changed = (network(mazes) != network(other)).any(1)[0, 0]
    assert changed[0]
    assert not changed[4:].any()
    network(mazes).square().sum().backward()
    assert all(layer.weight.grad.any() for layer in network.layers)


def test_optimal_moves_of_loops_walls_goals_and_cells_cut_off():
    moves = moves_of(read_maze("S..\n.#.\n..G\n###\n...")[None])[0]
    assert moves[:, 0, 0].tolist() == [False, True, False, True]  # two ways round the wall
    assert moves[:, 1, 2].tolist() == [False, True, False, False]
    assert not moves[:, 1, 1].any()
    assert not moves[:, 2, 2].any()
    assert not moves[:, 4].any()


def test_moves_are_followed_to_the_goal_a_wall_or_a_cell_seen_before():
    maze = read_maze("S.\n#.\nG.")[None]
    up, down, left, right = range(4)
    good = torch.tensor([[[right, down], [up, down], [right, left]]])
    visited, arrived = follow(good, maze)
    assert (visited[0].tolist(), arrived.tolist()) == ([[True, True], [False, True], [True, True]], [True])
    for bad, count in (([left, down], 1), ([right, right], 2), ([down, down], 1), ([right, left], 2)):
        moves = good.clone()
        moves[0, 0] = torch.tensor(bad)
        visited, arrived = follow(moves, maze)
        assert (visited.sum().item(), arrived.item()) == (count, False)
        scores = torch.nn.functional.one_hot(moves, 4).movedim(-1, 1)
        assert wrong_on_the_way(scores, maze, moves_of(maze)).sum() == 1


def test_a_detour_is_wrong_though_it_arrives():
    maze = read_maze("S..\n...\nG..")[None]
    up, down, left, right = range(4)
    moves = torch.tensor([[[right, down, down], [down, down, down], [up, left, left]]])
    assert follow(moves, maze)[1].item()
    scores = torch.nn.functional.one_hot(moves, 4).movedim(-1, 1)
    assert wrong_on_the_way(scores, maze, moves_of(maze))[0].nonzero().tolist() == [[0, 0]]


def test_the_loss_takes_any_optimal_move_and_leaves_other_cells_out():
    module, mazes = MazeModule(MazePlanner(actions=4, hidden=4)), read_maze("S.\n.G")[None]
    optimal = moves_of(mazes)
    scores = torch.zeros(1, 4, 2, 2, requires_grad=True)
    torch.testing.assert_close(module.loss(scores, optimal).item(), (np.log(2) + 2 * np.log(4)) / 3)
    module.loss(scores, optimal).backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad[..., 1, 1].eq(0).all()
    assert module.loss(100 * optimal.float(), optimal) < 1e-6 < module.loss(-optimal.float(), optimal)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs on little mazes: convolutions, an unrolled planner, and the equilibrium beside them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    small = [*DATA, "data.train_size=64"]
    layers = run(folder / "layers", "model=layers_maze", *small, "model.depth=6")
    unrolled = run(folder / "unrolled", "model=unrolled_maze", *small, "model.solver_options.max_steps=6")
    beside = f"model.baselines=[{layers.folder / 'export'},{unrolled.folder / 'export'}]"
    alone = ["stages=[]", "model.lr=2e-2"]  # not from the weights of a planner that is trained already
    return run(folder / "deq", "model=deq_maze", *DATA, beside, *alone), layers, unrolled


def test_a_short_training_learns_to_plan(finished):
    deq, layers, unrolled = finished
    metrics = json.loads((deq.folder / "metrics.json").read_text())
    test, check = metrics["test"], metrics["maze_check"]
    assert test["n"] == 20
    assert test["unconverged"] == 0
    assert list(check["sets"]) == ["7", "9"]
    found = check["sets"]["9"]
    assert found["solved"] == pytest.approx(test["puzzles_solved"])
    assert found["cells"] == pytest.approx(1 - test["cells_wrong"], abs=0.05)  # there the mean is over batches
    assert found["over_nfe"]["512"] == pytest.approx(found["solved"])
    assert (check["side"], found["n"]) == (7, 20)
    assert 2 <= found["length"] <= found["most"]
    by_layers, by_unrolling = (check["baselines"][str(each.folder / "export")] for each in (layers, unrolled))
    assert by_layers["parameters"] == layers.metrics["parameters"]
    assert "steps_taken" not in by_layers
    assert by_unrolling["steps_taken"] == 6
    assert by_unrolling["parameters"] == metrics["parameters"]
    assert by_unrolling["solved"]["9"] == pytest.approx(unrolled.metrics["test"]["puzzles_solved"])
    assert 0 <= by_unrolling["solved_iterated"]["9"] <= 1
    rows = read_history(deq.folder / "metrics.csv")
    losses = [row["train/loss"] for row in rows if "train/loss" in row]
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert {"train/cells_wrong", "val/puzzles_solved", "val/nfe", "val/unconverged"} <= set().union(*rows)


def test_the_card_and_the_plots(finished):
    deq, layers, _ = finished
    card = (deq.folder / "export" / "README.md").read_text()
    for words in (
        "20 test mazes of `mazes`",
        "found by filling dead ends",
        "whole mazes right",
        "iterated to the same",
    ):
        assert words in card
    drawn = {path.name: path.stat().st_size for path in (deq.folder / "plots").iterdir()}
    assert drawn.keys() == {"training.png", "mazes.png", "values.png", "solving.gif"}
    assert max(drawn.values()) < 300_000
    assert {path.name for path in (layers.folder / "plots").iterdir()} == {"training.png"}


def test_the_bar_is_asked_of_mazes_of_twice_the_side_alone(finished):
    check = json.loads((finished[0].folder / "metrics.json").read_text())["maze_check"]
    assert not any("90 %" in required for _, _, required in check_rows(check))
    twice = check | {"side": 4}  # of whose double side the mazes of 9 x 9 are
    assert [what[:5] for what, _, required in check_rows(twice) if "90 %" in required] == ["9 x 9"]
    assert "at most 4 x 4 cells" in check_text(twice)


def test_the_export_solves_mazes(finished):
    for each in finished:
        inputs, output = read_golden(each.folder / "export")
        torch.testing.assert_close(deqzoo.load(each.folder / "export")(**inputs), output, rtol=1e-3, atol=1e-3)
    network = deqzoo.load(finished[0].folder / "export")
    for same in ([[2, 1, 3]], np.array([[2, 1, 3]], np.uint8), torch.tensor([[2, 1, 3]]), "S G\n"):
        assert network.solve(same).maze.tolist() == [[2, 1, 3]]
    cut = deqzoo.load(finished[0].folder / "export", max_steps=1).solve(MAZE)
    assert not cut.converged
    assert cut.evaluations == 2  # one step, and the look at what it gave


def test_an_answer_is_a_way_and_is_printed():
    answer = told_planner().solve(MAZE)
    assert (answer.arrived, answer.steps, answer.converged) == (True, 10, True)
    assert answer.cells.sum() == 11
    assert answer.values.shape == answer.maze.shape
    assert answer.values[1, 1].item() == pytest.approx(answer.values.max().item() * 0.99**10, rel=1e-4)
    assert answer.residual <= 1e-9
    assert str(answer).splitlines()[1:4] == ["#S******#", "#.###.#*#", "#.#...#*#"]
    lost = told_planner()
    lost.deq.cell.kernels.data.zero_()
    lost.head.data.zero_()
    lost = lost.solve("###\n#S#\n#.#\n#G#\n###")
    assert (lost.arrived, lost.steps, lost.cells.sum().item()) == (False, None, 1)


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
        MazePlanner(actions=4, hidden=4).eval().solve(maze)


def test_what_a_network_is_given_is_looked_at():
    for network in (MazePlanner(actions=4, hidden=4).eval(), MazeLayers(width=4, depth=2).eval()):
        mazes = random_mazes(2, 4, 5)
        torch.testing.assert_close(network(mazes.to(torch.uint8)), network(mazes))
        for wrong, told in (
            (mazes.float(), "are integers, 0 wall"),
            (mazes + 1, "got 1 to 4"),
            (mazes[0], r"puzzles are \(B, height, width\); got \(4, 5\)"),
        ):
            with pytest.raises(ValueError, match=told):
                network(wrong)
    assert read_maze(["S.#", "#.G"]).tolist() == read_maze("S.#\n#.G").tolist()


def test_half_precision_finds_the_same_way():
    assert told_planner().half().solve(MAZE).steps == 10


def test_lines_that_are_short_end_in_walls():
    assert read_maze("\nS.\n ...\r\n#.G\n").tolist() == [[2, 1, 0, 0], [1, 1, 1, 1], [0, 1, 3, 0]]


@pytest.mark.parametrize(
    ("model", "overrides", "told"),
    [
        ("deq_maze", ["model.actions=0"], r"model\.actions and hidden must be at least 1, got 0 and 16"),
        ("deq_maze", ["model.discount=1"], r"model\.discount must lie in \(0, 1\), got 1"),
        ("deq_maze", ["data=digits"], r"data=digits has images; model=deq_maze .* needs mazes"),
        ("deq_maze", ["data.sides=[10]"], "the side of a maze .* got 10"),
        ("layers_maze", ["model.depth=0"], r"model\.width and depth must be at least 1, got 8 and 0"),
    ],
)
def test_wrong_value_stops_the_run_before_training(model, overrides, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed(f"model={model}", *overrides), tmp_path)
