"""README.md is true: its Python runs, its commands are those of the project, its links lead somewhere."""

import re
import shlex

import pytest

from tests.running import ROOT, composed
from tests.texts import python_blocks

TEXT = (ROOT / "README.md").read_text()
PYTHON = python_blocks(ROOT / "README.md")
COMMANDS = re.findall(r"python train\.py [^`#&\n]+", TEXT + (ROOT / "docs" / "training.md").read_text())


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.strip().splitlines()[-1][:40])
@pytest.mark.filterwarnings("ignore::Warning:lightning")
def test_python_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_ridge_gradient_is_the_closed_form():
    (block,) = (block for block in PYTHON if "def conditions" in block)
    scope: dict = {"__name__": "readme"}
    exec(compile(block, "README.md", "exec"), scope)
    X, y, strength, torch = scope["X"], scope["y"], scope["strength"], scope["torch"]
    closed = strength.detach().requires_grad_()
    w = torch.linalg.solve(X.T @ X + closed * torch.eye(3, dtype=X.dtype), X.T @ y)
    w.square().sum().backward()
    torch.testing.assert_close(strength.grad, closed.grad)


def test_five_snippets_a_hero_and_ten_results():
    assert len(PYTHON) == 5
    assert all(len(block.strip().splitlines()) <= 20 for block in PYTHON)
    hero = ROOT / "docs" / "pictures" / "hero.gif"
    assert hero.stat().st_size < 300_000
    assert "(docs/pictures/hero.gif)" in TEXT
    assert TEXT.count("\n| [`") == 10


def test_commands_compose():
    assert len(COMMANDS) >= 3
    for command in COMMANDS:
        words = [word for word in shlex.split(command)[2:] if word not in ("-m", "--help", "resume=last")]
        composed(*[word.partition(",")[0] for word in words])


def test_bash_blocks_are_the_two_commands():
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    commands = [line.partition("  #")[0].strip() for line in block.strip().splitlines()]
    assert commands == ["pip install -e . && python train.py", "pip install -e '.[test]' && pytest"]


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(targets) > 5
    assert [target for target in targets if not target.startswith("http") and not (ROOT / target).exists()] == []
