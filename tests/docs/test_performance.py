"""The page on performance: its tables are those of the benchmarks' JSON files."""

import json

import pytest

from deqzoo.docs.pages import write_pages
from deqzoo.docs.performance import benchmark_tables
from tests.running import ROOT

RUN = {
    "environment": {"torch": "2.14", "processor": "a CPU"},
    "quick": False,
    "times": [
        {"library": "ours", "seconds": 0.0123456, "over_peer": 0.5, "bytes_after": {"1": 2**19}},
        {"library": "a|b", "seconds": 1.2501, "over_peer": None, "bytes_after": {"1": 2**23}},
    ],
    "checks": [{"promise": "half the time", "found": "0.50", "kept": True}],
}


def test_a_run_becomes_tables(tmp_path):
    (tmp_path / "some_run.json").write_text(json.dumps(RUN))
    text = benchmark_tables(tmp_path)
    assert "### Some run\n\n`python -m benchmarks.some_run`: torch 2.14, processor a CPU." in text
    assert "<summary>Times: 2</summary>\n\n| library | time (ms) | over peer | memory after (MiB) |" in text
    assert "| ours | 12.3 | 0.5 | 1: 0.5 |\n| a\\|b | 1250 |  | 1: 8 |" in text
    assert "| half the time | 0.50 | yes |" in text


def test_a_smoke_run_is_refused(tmp_path):
    (tmp_path / "some_run.json").write_text(json.dumps(RUN | {"quick": True}))
    with pytest.raises(ValueError, match=r"some_run\.json is of a smoke run"):
        benchmark_tables(tmp_path)


def test_the_page_has_the_runs_of_the_checkout(tmp_path):
    pytest.importorskip("latex2mathml", reason="needs pip install -e '.[docs]'")
    runs = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert runs
    assert all((ROOT / "benchmarks" / f"{run.stem}.py").is_file() for run in runs)
    write_pages(ROOT, tmp_path)
    page = (tmp_path / "performance.md").read_text()
    assert "<!-- benchmarks -->" not in page
    for run in runs:
        assert f"`python -m benchmarks.{run.stem}`: " in page
