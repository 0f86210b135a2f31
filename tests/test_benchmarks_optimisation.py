"""The benchmark of programs: our way agrees with the accurate solution, and what it promises is looked at."""

import pytest

from benchmarks import optimisation


def test_our_way_is_accurate():
    rows = optimisation.program_table(quick=True)
    ours = [row for row in rows if row.library == "deqzoo"]
    assert len(ours) == len(optimisation.QUICK)
    for row in ours:
        assert row.error < 1e-6, row
        assert row.gradient_error < 1e-6, row


def test_a_promise_is_kept_or_not():
    row = optimisation.ProgramRow("n = 10, batch 1", "deqzoo", 1.0, 0.6, 1e-9, 1e-9)
    large = optimisation.ProgramRow("n = 200, batch 1", "deqzoo", 1.0, 0.6, 1e-9, 1e-9)
    accurate, slow, fast = optimisation.checks([row, large], [])
    assert (accurate.kept, slow.kept, fast.kept) == (True, False, True)
    assert optimisation.over_faster_peer({"deqzoo": [1.0], "a": [4.0], "b": [2.0]}) == pytest.approx(0.5)
