"""README.md is true: its Python runs, its commands are those of the project, its links lead somewhere."""

import re
import shlex

import pytest

from tests.running import ROOT, composed

TEXT = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"python train\.py [^`#&]+", TEXT)


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


def test_commands_compose():
    assert len(COMMANDS) >= 3
    for command in COMMANDS:
        words = [word for word in shlex.split(command)[2:] if word not in ("-m", "--help")]
        composed(*[word.partition(",")[0] for word in words])


def test_bash_blocks_are_the_two_commands():
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    commands = [line.partition("  #")[0].strip() for line in block.strip().splitlines()]
    assert commands == ["pip install -e . && python train.py", "pip install -e '.[test]' && pytest"]


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert len(targets) > 5
    assert [target for target in targets if not target.startswith("http") and not (ROOT / target).exists()] == []
