"""The benchmark of the reversible iteration: what it measures, and that a growing memory breaks its promise."""

import dataclasses

from benchmarks import reversible


def test_memory_of_the_ways():
    rows = [row for evaluations in reversible.EVALUATIONS for row in reversible.rows_at(evaluations, quick=True)]
    memory = {(row.way, row.evaluations): row.peak_bytes for row in rows}
    assert memory[reversible.TAPE, 64] > 3 * memory[reversible.TAPE, 16]
    assert all(0 < row.residual < 0.1 for row in rows)  # of a fresh cell: it contracts
    (check,) = reversible.checks_of(rows)
    grown = [dataclasses.replace(row, peak_bytes=row.peak_bytes * row.evaluations) for row in rows]
    (broken,) = reversible.checks_of(grown)
    assert not broken.kept
    assert check.promise == broken.promise
