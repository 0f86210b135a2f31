"""The benchmark of neural CDEs: paths and solutions are torchcde's, where it is installed; promises are looked at."""

import math

import pytest

from benchmarks import cde


def test_paths_and_solutions_are_torchcdes():
    pytest.importorskip("torchcde")
    rows = [row for row in cde.path_rows(quick=True) + cde.solution_rows(quick=True) if row.library == "deqzoo"]
    assert len(rows) == 9
    for row in rows:
        assert row.error < cde.EQUAL, row


def test_a_promise_is_kept_or_not():
    fast = cde.Row("gradient, linear, by default", "deqzoo", 1.0, 10, 0.5, 1e-3)
    slow = cde.Row("gradient, linear, on the tape", "deqzoo", 1.0, 10, 1.5, 1e-3)
    wrong = cde.Row("linear, 50 % missing", "deqzoo", 1.0, math.nan, 0.9, 1e-3)
    peer = cde.Row("linear, 50 % missing", "torchcde", 1.0, math.nan, None, 1e-3)
    assert [check.kept for check in cde.checks([fast, slow, wrong, peer])] == [True, False, False]
