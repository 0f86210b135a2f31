"""The benchmarks of hypergradients and meta-gradients: their ways agree, and what they count is right."""

import dataclasses

import pytest
import torch

from benchmarks import hypergradients, meta, small_problems
from benchmarks.problems import penalised_problems


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


def test_torchopt_finds_the_same_hypergradient():
    pytest.importorskip("torchopt")
    rows = [r for r in hypergradients.ridge_table(quick=True) if r.library == "torchopt"]
    assert len(rows) == 4
    assert all(r.error < 1e-4 for r in rows)
    rows = hypergradients.hyper_table(quick=True)
    assert all(r.error < 1e-5 for r in rows)
    assert len(hypergradients.hyper_checks(rows)) == 3


def test_gradients_of_small_fixed_points_are_right_in_each_way():
    pytest.importorskip("jaxopt")
    for unknowns in (5, 20):
        W, x = small_problems.problem(unknowns)
        exact = small_problems.exact_gradient(W, x)
        ways = small_problems.our_ways(W, x) | small_problems.their_ways(W, x)
        assert len(ways) == 5
        for name, way in ways.items():
            assert small_problems.relative_error(way(), exact) < 1e-4, name


def test_the_promise_beside_jaxopt_is_judged_by_its_ratio():
    ours = small_problems.SmallRow(50, "deqzoo", small_problems.COMPILED, 1.0, 6.5, 1e-6)
    assert [check.kept for check in small_problems.small_checks([ours])] == [False]
    assert small_problems.small_checks([dataclasses.replace(ours, over_peer=None)]) == []
