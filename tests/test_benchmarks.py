"""The benchmarks' problems are what they say, their instruments count right, and the scripts run (small)."""

import dataclasses
import functools
import json
import sys

import pytest
import torch

from benchmarks import cnf, fixed_point, gpu, implicit_gradient, ode, report
from benchmarks.measure import CountCalls, HostReads, PeakBytes, SavedBytes, in_a_row, interleaved, median_ratio
from benchmarks.problems import classifier_problem, ridge_problem, solver_problems

PROBLEMS = solver_problems(quick=True)
linear_problems = pytest.mark.parametrize("problem", PROBLEMS[3:], ids=lambda problem: problem.name)


# --- problems ---


@linear_problems
def test_the_spectrum_is_as_named(problem):
    matrix = problem.f.matrix.detach()
    size = torch.linalg.matrix_norm(matrix, 2) if "norm" in problem.name else torch.linalg.eigvalsh(matrix).abs().max()
    assert size == pytest.approx(float(problem.name.split()[-1]))


@linear_problems
def test_residual_and_solved_against_a_direct_solve(problem):
    matrix = problem.f.matrix.detach()
    exact = torch.linalg.solve(torch.eye(len(matrix)).to(matrix) - matrix, problem.x.T).T
    assert problem.residual(exact) < 1e-11
    assert problem.solved(exact)
    assert problem.residual(problem.z0) == pytest.approx(problem.x.norm(dim=1).max().item())  # f(0) - 0 = x
    assert not problem.solved(problem.z0)


def test_a_relative_residual_is_that_of_the_worst_system():
    problem = PROBLEMS[0]
    z = torch.randn_like(problem.z0)
    with torch.no_grad():
        image = problem.f(z, problem.x)
    one_by_one = [((a - b).norm() / a.norm()).item() for a, b in zip(image, z, strict=True)]
    assert problem.residual(z) == pytest.approx(max(one_by_one), rel=1e-4)


def test_problems_are_the_same_each_time_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    again = solver_problems(quick=True)
    after = torch.rand(())
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(()))
    for old, new in zip(PROBLEMS, again, strict=True):
        assert torch.equal(old.x, new.x)
        assert all(torch.equal(a, b) for a, b in zip(old.f.parameters(), new.f.parameters(), strict=True))


def test_the_closed_form_of_the_ridge_regression():
    ridge, t = ridge_problem(quick=True), torch.full((10,), 0.3, dtype=torch.float64)
    assert ridge.stationarity(ridge.solve(t), t).norm() < 1e-10
    step, exact = 1e-5, ridge.hypergradient(t)
    for i in (0, 7):
        shift = torch.zeros_like(t)
        shift[i] = step
        difference = ridge.outer(ridge.solve(t + shift)) - ridge.outer(ridge.solve(t - shift))
        assert exact[i] == pytest.approx(difference.item() / (2 * step), rel=1e-6)


# --- instruments ---


def test_peak_bytes_counts_what_is_alive_at_once():
    old = torch.zeros(1000)
    with PeakBytes() as memory:
        first = old + 1
        del first
        second = old + 1  # 4,000 bytes
        third = second + 1  # 4,000 more
        second.add_(third)
        view = third.view(10, 100)
        old.mul_(2)
        fourth = torch.empty(500)  # 2,000 more
    assert memory.peak == 10_000
    assert view.shape == (10, 100)
    assert fourth.shape == (500,)


def test_host_reads_counts_each_look():
    a = torch.arange(3.0)
    with HostReads() as reads:
        _ = a + 1
        assert reads.count == 0
        _ = a.sum().item()
        _ = a.tolist()
        _ = bool((a > 5).any())
        _ = float(a[0])
    assert reads.count == 4


def test_saved_bytes_counts_the_tape_once_and_until_it_dies():
    w = torch.ones(10, requires_grad=True)
    with SavedBytes() as saved:
        y = w.exp().exp()  # exp keeps its result
    assert saved.total == 80
    del y
    assert saved.total == 0


def test_interleaved_runs_the_calls_in_turn():
    order = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "ab"}, 3)
    assert order == list("abbaab")
    assert [len(times[name]) for name in "ab"] == [3, 3]
    assert min(times["a"]) >= 0


def test_calls_in_a_row():
    made = []
    in_a_row(lambda: made.append(1), 3)()
    assert made == [1, 1, 1]


def test_ratios_are_taken_within_a_round():
    assert median_ratio([2.0, 40.0, 9.0], [1.0, 10.0, 3.0]) == 3.0  # of 2, 4 and 3


def test_count_calls():
    f = CountCalls(lambda x: x + 1)
    assert f(f(1)) == 3
    assert f.calls == 2


# --- the tables ---


@pytest.mark.parametrize("problem", [PROBLEMS[0], PROBLEMS[2], PROBLEMS[4]], ids=lambda problem: problem.name)
def test_our_solvers_solve_and_are_measured(problem):
    with torch.no_grad():
        rows = fixed_point.measure(problem, rounds=1)
    ours = [row for row in rows if row.library == "deqzoo"]
    assert [row.solver for row in ours] == ["Picard", "Anderson", "Anderson, depth 3", "Anderson, depth 30", "Broyden"]
    for row in ours:
        assert row.solved
        assert row.residual <= 1.05 * problem.tol
        assert row.host_reads <= row.nfe + 2
        assert row.peak_bytes > problem.z0.nbytes
        assert row.over_bare > 0


def row(library, solver, nfe, over_bare, over_peer, solved=True):
    return fixed_point.Row("p", library, solver, nfe, over_peer, over_bare, over_peer, 1, 1e-4, solved, nfe)


SAME_MEMORY = {"deqzoo": {50: 100, 500: 100}}


@pytest.mark.parametrize(
    ("ours", "peer", "kept"),
    [
        (row("deqzoo", "A", 10, 3.0, 0.7), row("torchdeq", "a", 10, 2.5, 1.0), [True, True]),
        (row("deqzoo", "A", 11, 1.0, 0.71), row("torchdeq", "a", 10, 2.5, 1.0), [False, False]),
        (row("deqzoo", "A", 9, 1.25, 0.9), row("torchdeq", "a", 10, 1.5, 1.0), [True, True]),
        (row("deqzoo", "A", 9, 1.26, 0.5), row("torchdeq", "a", 10, 1.5, 1.0), [True, False]),
        (row("deqzoo", "A", 9, 1.2, 0.5, solved=False), row("torchdeq", "a", 10, 1.5, 1.0), [False]),
    ],
    ids=["fast enough", "slow and more calls", "lean", "too much overhead", "unsolved"],
)
def test_the_promises_are_judged_by_their_numbers(ours, peer, kept):
    found = fixed_point.checks([ours, peer], SAME_MEMORY)
    assert [check.kept for check in found] == [*kept, True]


def test_growing_memory_breaks_the_promise():
    *_, memory = fixed_point.checks([], {"deqzoo": {50: 100, 500: 900}})
    assert not memory.kept


def test_broydens_memory_follows_the_steps_taken():
    with torch.no_grad():
        few, many = fixed_point.broyden_memory(PROBLEMS[3])["deqzoo"].values()
    assert few == many


def test_deq_gradient_is_near_the_independent_reference():
    rows = {r.method: r for r in implicit_gradient.deq_table(quick=True) if r.library == "deqzoo"}
    assert rows["Anderson, Implicit(GMRES)"].error < 5e-3
    assert rows["Anderson, Implicit(GMRES)"].vjps > 0
    assert rows["Anderson, OneStep"].error > 0.1  # so the reference is not trivially met
    assert all(r.saved_bytes > 0 and r.seconds > 0 for r in rows.values())


def test_the_reference_gradient_is_that_of_an_unrolled_solve():
    model, x, labels = classifier_problem(quick=True)
    exact = implicit_gradient.exact_gradient(model, x, labels)
    unrolled, x = model.double(), x.double()
    z = torch.zeros_like(x)
    for _ in range(150):
        z = unrolled.block(z, x)
    assert implicit_gradient.relative_error(implicit_gradient.gradient_of(model, model.loss(z, labels)), exact) < 1e-10


def test_implicit_gradients_keep_the_same_bytes_however_many_iterations():
    rows = {r.method: list(r.bytes_after.values()) for r in implicit_gradient.saved_table(quick=True)}
    assert len(set(rows["Picard, Implicit"])) == 1
    assert len(set(rows["Anderson, Implicit"])) == 1
    assert rows["Picard, Unrolled"][2] > 2 * rows["Picard, Unrolled"][1]


def test_the_scripts_write_json_and_print_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fixed_point, "solver_problems", lambda quick: PROBLEMS[:4] if quick else None)
    monkeypatch.setattr(report, "keep_freed_memory", lambda: None)  # it is for the whole process
    monkeypatch.setattr(sys, "argv", ["fixed_point.py", "--quick", "--json", str(tmp_path / "a.json")])
    assert fixed_point.main() == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert {r["problem"] for r in content["rows"]} == {problem.name for problem in PROBLEMS[:4]}
    assert content["environment"]["torch"] == torch.__version__
    assert "Fixed-point solvers" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # and no half-written file beside it


# --- beside the peers, where they are installed ---


def test_torchdeq_is_given_the_same_problem():
    pytest.importorskip("torchdeq")
    with torch.no_grad():
        rows = fixed_point.measure(PROBLEMS[3], rounds=1)
    theirs = {r.solver: r for r in rows if r.library == "torchdeq"}
    assert set(theirs) == {"fixed_point_iter", "anderson", "broyden"}
    assert all(r.solved for r in theirs.values())
    plain = next(r for r in rows if r.solver == "Picard")
    assert theirs["fixed_point_iter"].nfe == plain.nfe


@pytest.mark.slow
def test_ode_benchmark_measures_and_checks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ode.py", "--quick", "--json", str(tmp_path / "ode.json")])
    monkeypatch.setattr(ode, "mlp_problem", functools.partial(ode.mlp_problem, tol=1e-2))
    assert ode.main() == 0
    content = json.loads((tmp_path / "ode.json").read_text())
    ours = [row for row in content["rows"] if row["library"] == "deqzoo"]
    assert {row["way"] for row in ours} >= {"Tsit5, discrete", "Dopri5, direct", "Dopri5, backsolve"}
    assert all(row["nfe"] > 0 and row["error"] < 1 for row in ours)
    assert len(content["checks"]) >= 10
    assert "stiff mix" in capsys.readouterr().out


def test_ode_rows_count_and_compare_with_an_accurate_reference():
    ways = {ode.BACKPROP, ode.ADJOINT, "Tsit5, discrete"}
    rows = ode.measure(ode.mlp_problem("MLP", batch=4, tol=1e-6), rounds=1, ways=ways)
    assert all(row.error < 1e-4 and row.nfe > 0 and row.over_backprop > 0 for row in rows)
    backprop = ode.get(rows, "MLP", ode.BACKPROP)
    assert backprop.nfe_backward == 0
    assert ode.get(rows, "MLP", "Tsit5, discrete").held_bytes < backprop.held_bytes


def test_ode_work_with_steps_of_each_samples_own():
    assert ode.stiff_check(quick=True).kept


@pytest.mark.slow
def test_flows_of_all_libraries_are_the_same_density():
    for problem in cnf.problems(quick=True):
        rows = cnf.measure(dataclasses.replace(problem, x=problem.x[:4]), rounds=1)
        assert {row.library for row in rows} >= {"deqzoo", "torchdiffeq"}
        assert all(row.nfe > 0 and row.seconds > 0 and row.error < 1e-2 for row in rows)
        assert len(cnf.checks(rows)) == 2


def test_the_promises_of_the_flows_ask_for_the_peers_accuracy():
    ours = cnf.Row("p", "evaluation", "deqzoo", "a", 10, 1.0, 0.5, 1e-2)
    peer = cnf.Row("p", "evaluation", "zuko", "b", 10, 2.0, 1.0, 2e-2)
    assert [check.kept for check in cnf.checks([ours, peer])] == [True]
    assert [check.kept for check in cnf.checks([dataclasses.replace(ours, over_peer=0.7), peer])] == [False]
    assert [check.kept for check in cnf.checks([dataclasses.replace(ours, error=3e-2), peer])] == [False]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["equilibrium", "neural ODE", "flow", "meta-learning", "language"])
def test_each_way_of_a_training_step_runs(family, tmp_path, monkeypatch):
    pytest.importorskip("torchdeq")
    words = ["--quick", "--families", family, "--json", str(tmp_path / "gpu.json")]
    monkeypatch.setattr(report, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    assert gpu.main() == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["error"] for row in rows] == [""] * len(rows)
    assert all(row["seconds"] > 0 and row["kernels"] > 0 for row in rows)
