"""The pages of the documentation: their code runs, and the reference has every public name."""

import re
from importlib import import_module

import pytest

from deqzoo.docs.docstrings import reference_names
from tests.running import ROOT
from tests.texts import python_blocks

ELSEWHERE = ("hub",)  # run by a test of their own, which gives them what they need
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if page.stem not in ELSEWHERE)
BLOCKS = [(page, block) for page in PAGES for block in python_blocks(page)]
MODULES = ("deqzoo", "deqzoo.implicit", "deqzoo.nn", "deqzoo.models", "deqzoo.data")


def label(value):
    return value.stem if hasattr(value, "stem") else value.strip().splitlines()[-1][:40]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=label)
@pytest.mark.filterwarnings("ignore::Warning:lightning", "ignore::deqzoo.implicit.NonConvergenceWarning")
def test_python_runs(page, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(page), "exec"), {"__name__": "page"})


def test_code_of_other_libraries_is_python():
    text = (ROOT / "docs" / "coming_from.md").read_text()
    blocks = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "coming_from.md", "exec")


def test_the_reference_has_every_public_name():
    documented = reference_names()
    for module in MODULES:
        names = [name for name in import_module(module).__all__ if name != "__version__"]
        missing = [name for name in names if name not in documented]
        assert missing == [], f"{module}: no page of docs/reference has {missing}"


def test_the_reference_has_nothing_twice_and_all_of_it_is_there():
    pages = [page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md")]
    named = re.findall(r"^::: (\S+)", "\n".join(pages), re.MULTILINE)
    assert sorted(named) == sorted(set(named))
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
