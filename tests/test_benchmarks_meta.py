"""The benchmarks of hypergradients and meta-gradients: their ways agree, and what they count is right."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # they are scripts, not a package

import hypergradients
import meta
import meta_gradients
import unrolling
from problems import penalised_problems

from deqzoo.data.sinusoids import draw_sinusoids
from deqzoo.implicit import LBFGS
from deqzoo.models import MetaLearner
from deqzoo.nn import IMAML
from deqzoo.nn.dynamics import mlp


def test_ridge_hypergradient_at_any_scale_of_the_loss():
    for r in hypergradients.ridge_table(quick=True):
        if r.library == "deqzoo":
            assert r.error < 1e-4
            assert r.error_tiny < 1e-4


def test_penalised_regressions_against_their_references():
    """The minimiser is one, and the dense hypergradient is that of finite differences."""
    for problem in penalised_problems(quick=True).values():
        t = torch.full((problem.x.shape[1],), -0.5, dtype=torch.float64)
        w = problem.solve(t)
        assert problem.stationarity(w, t).norm() < 1e-12
        exact, step = problem.hypergradient(t, w), 1e-5
        shift = step * torch.eye(len(t), dtype=torch.float64)[1]
        difference = problem.outer(problem.solve(t + shift)) - problem.outer(problem.solve(t - shift))
        assert exact[1] == pytest.approx(difference.item() / (2 * step), rel=1e-6)
    rows = [r for r in hypergradients.hyper_table(quick=True) if r.library == "deqzoo"]
    assert len(rows) == 3
    assert all(r.error < 1e-5 for r in rows)


def test_meta_gradient_ways_agree_and_imaml_keeps_the_same_bytes():
    cpu = torch.device("cpu")
    times, held = meta.time_table(True, cpu), meta.bytes_table(True, cpu)
    assert all(row.difference < 1e-5 for row in times)
    kept = {row.method: list(row.bytes_after.values()) for row in held}
    assert kept["iMAML"][0] == kept["iMAML"][1] > 0
    assert kept["MAML"][1] > 1.3 * kept["MAML"][0]
    assert all(check.kept for check in meta.checks(times, held, cpu)[:2])


def test_unrolled_and_implicit_gradients_approach_the_exact_one():
    rows = unrolling.measure((2, 100), 1, unrolling.Problem(width=3))
    errors = {(row.method, row.steps): row.error for row in rows}
    assert errors["unrolled", 100] < 0.05 < errors["unrolled", 2]
    assert errors["implicit", 100] < 0.01 < errors["implicit", 2]
    kept = {(row.method, row.steps): row.saved_bytes for row in rows}
    assert kept["implicit", 2] == kept["implicit", 100]
    assert kept["unrolled", 100] > 25 * kept["unrolled", 2]
    assert unrolling.checks(rows)[0].kept


@pytest.mark.slow
def test_three_methods_of_meta_learning_over_the_inner_steps(tmp_path):
    rows = unrolling.measure_methods((2, 40), 1, unrolling.Problem(width=3))
    found = {(row.method, row.steps): row for row in rows}
    assert found["MAML", 40].error == 0
    assert found["first-order MAML", 40].error > 0.01
    assert found["iMAML", 40].error < 1e-6 < found["iMAML", 2].error
    assert found["MAML", 40].saved_bytes > 5 * found["MAML", 2].saved_bytes
    assert found["iMAML", 40].saved_bytes <= found["iMAML", 2].saved_bytes
    assert found["MAML", 40].query_loss == found["first-order MAML", 40].query_loss
    unrolling.plot(rows, "title", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_diagnostic_of_meta_gradients_finds_the_exact_method_exact():
    learner = MetaLearner(
        mlp(1, 6, 1, activation=torch.nn.SiLU), IMAML(1.0, LBFGS(tol=1e-6)), torch.nn.functional.mse_loss
    )
    tasks = [tuple(t[i : i + 1] for t in draw_sinusoids(3, 5, 5, torch.Generator().manual_seed(0))) for i in range(3)]
    rows = {row.method: row for row in meta_gradients.measure(learner, tasks)}
    own, first = rows["iMAML, recipe"], rows["first-order MAML, 5 steps"]
    assert own.tasks == 3
    assert own.least_cosine > 0.9999
    assert own.error < 1e-2 < first.error
    assert 0 < own.low < own.high
    assert own.stationarity < 1e-4


def test_torchopt_finds_the_same_hypergradient():
    pytest.importorskip("torchopt")
    rows = [r for r in hypergradients.ridge_table(quick=True) if r.library == "torchopt"]
    assert len(rows) == 4
    assert all(r.error < 1e-4 for r in rows)
    rows = hypergradients.hyper_table(quick=True)
    assert all(r.error < 1e-5 for r in rows)
    assert len(hypergradients.hyper_checks(rows)) == 3
