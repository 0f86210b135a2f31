"""Cards of the shipped entries: the paper's number, and why ours is below it where it is."""

import json
import re

import pytest

from deqzoo.models.registry import kind_of
from deqzoo.paths import head, zoo_path

ENTRIES = sorted(path.parent.name for path in zoo_path("checkpoints").glob("*/metrics.json"))


def claimed(paper: str) -> float | None:
    """The first accuracy that a paper is quoted with for what the entry does."""
    found = re.search(r"(\d[\d.]*)(?: ± [\d.]+)? %( error)?", paper)
    if found is None or "no number" in paper:
        return None
    number = float(found[1]) / 100
    return 1 - number if found[2] else number


def test_claims_are_read():
    assert claimed("A, [B](https://c.de/12.34) (0.42 % error, .22M parameters)") == pytest.approx(0.9958)
    assert claimed("A (87.1 ± .4 % claimed)") == pytest.approx(0.871)
    assert claimed("A (94 % with 2M parameters; no number for this size)") is None


@pytest.mark.parametrize("name", ENTRIES)
def test_a_card_has_the_paper_and_says_why_it_is_above_ours(name):
    folder = zoo_path("checkpoints") / name
    card = (folder / "README.md").read_text()
    assert f"| paper (its number) | {head(name, 'Paper')} |" in card
    why = head(name, "Below the paper")
    assert (f"| why below the paper | {why} |" in card) == bool(why)
    assert not why or head(name, "Better hardware"), "say by which command the gap would close"
    metric = kind_of(json.loads((folder / "config.json").read_text())["model"]["kind"]).metric
    ours = json.loads((folder / "metrics.json").read_text())["test"][metric]
    if metric == "accuracy" and (theirs := claimed(head(name, "Paper"))) is not None:
        assert bool(why) == (ours < theirs), f"{ours:.2%} against {theirs:.2%}"
