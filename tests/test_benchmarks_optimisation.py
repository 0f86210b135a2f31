"""The benchmark of optimisation: our ways agree with the references, and what they promise is looked at."""

import pytest
import torch

from benchmarks import cones, constrained, fitting, optimisation, soft_ranking, transport
from benchmarks.side_by_side import ACCURATE, at_most, over_fastest_peer, side_by_side


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
    accurate, slow, fast = optimisation.checks([row, large])
    assert (accurate.kept, slow.kept, fast.kept) == (True, False, True)
    assert over_fastest_peer({"deqzoo": [1.0], "a": [4.0], "b": [2.0]}) == pytest.approx(0.5)


def test_the_promises_of_cone_programs():
    row = cones.ConeRow("p", "deqzoo", 1.0, 1.5, 0.0, 0.0)
    slow, exact = cones.checks([row], 1e-9)
    assert (slow.kept, exact.kept) == (False, True)
    assert not cones.checks([], 1e-3)[0].kept
    if cones.CvxpyLayer is not None:  # with the peers of requirements-peers.sh
        rows = cones.cone_table(quick=True)
        assert {row.library for row in rows} == {"deqzoo", "cvxpylayers", "cvxpylayers, Clarabel"}
        assert cones.difference_from_diffcp(2) < 1e-6


@pytest.mark.parametrize(
    "table", [constrained.constrained_rows, fitting.fitting_rows, soft_ranking.ranking_rows, transport.transport_rows]
)
def test_our_ways_agree_with_the_references(table):
    ours = [row for row in table(quick=True) if row.library == "deqzoo"]
    assert ours
    for row in ours:
        assert row.error < 1e-8, row
        assert row.gradient_error < 1e-8, row


def test_a_peer_that_is_inaccurate_or_missing_is_not_compared_with():
    exact = torch.ones(2), torch.ones(2)
    inexact = exact[0] + 2 * ACCURATE, exact[1]
    rows = side_by_side("p", {"deqzoo": lambda: exact, "a": lambda: inexact, "b": "no module"}, exact, rounds=1)
    found = {row.library: row for row in rows}
    assert found["deqzoo"].over_peer is None
    assert found["a"].error > ACCURATE
    assert found["b"].note == "no module"
    with_peer = side_by_side("p", {"deqzoo": lambda: exact, "a": lambda: exact}, exact, rounds=1)
    assert with_peer[0].over_peer is not None
    with_peer[0].over_peer = 2.0
    assert [check.kept for limit in (1.9, 2.1) for check in at_most(with_peer, limit)] == [False, True]
