"""What is installed: every data file is in the wheel, every import is declared, and the versions agree."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import deqzoo

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DISTRIBUTIONS = {  # others are called as imported
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "hydra": "hydra-core",
    "sklearn": "scikit-learn",
}


def imported(*sources):
    """Top-level packages that these files and folders import, wherever in a file."""
    files = [path for source in sources for path in ((ROOT / source).rglob("*.py") if source.is_dir() else [source])]
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return {DISTRIBUTIONS.get(name, name) for name in found - sys.stdlib_module_names - {"deqzoo"}}


def declared(*extras):
    """Distributions that a plain install, and one with these extras, brings."""
    project = PYPROJECT["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    return {re.match(r"[\w-]+", line)[0] for line in lines}


def test_every_import_is_declared():
    assert imported(ROOT / "deqzoo", ROOT / "train.py") <= declared("series", "convex", "docs", "hub")
    assert imported(ROOT / "examples") <= declared()


def test_every_dependency_is_imported():
    assert declared() <= imported(ROOT / "deqzoo", ROOT / "train.py")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an installed wheel: its archive, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import hatchling.build; print(hatchling.build.build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", build], cwd=ROOT, capture_output=True, text=True, check=True)
    site = folder / "site"
    zipfile.ZipFile(folder / done.stdout.split()[-1]).extractall(site)
    return site


def test_an_installed_wheel_has_every_file(installed):
    kept = {
        "deqzoo": ["**/*.py", "py.typed"],
        "models": ["*"],
        "data": ["*.yaml", "README.md"],
        "checkpoints": ["**/*"],
    }
    for folder, patterns in kept.items():
        target = installed / "deqzoo" if folder == "deqzoo" else installed / "deqzoo" / "_zoo" / folder
        files = [path for pattern in patterns for path in (ROOT / folder).glob(pattern) if path.is_file()]
        assert files
        for path in files:
            assert (target / path.relative_to(ROOT / folder)).read_bytes() == path.read_bytes(), path


def test_an_installed_wheel_finds_its_own_files(installed):
    code = "from deqzoo.paths import zoo_path; print(*map(zoo_path, ('models', 'data', 'checkpoints')), sep='\\n')"
    here = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=installed, env=here, capture_output=True, text=True, check=True
    )
    zoo = installed / "deqzoo" / "_zoo"
    assert done.stdout.splitlines() == [str(zoo / name) for name in ("models", "data", "checkpoints")]


def test_an_installed_wheel_has_nothing_else(installed):
    assert {path.name for path in installed.iterdir()} == {"deqzoo", f"deqzoo-{deqzoo.__version__}.dist-info"}
    assert not [path for path in installed.rglob("*") if path.name in ("tests", "__pycache__") or path.suffix == ".npz"]


def test_versions_agree():
    assert OmegaConf.load(ROOT / "CITATION.cff").version == deqzoo.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest in ("Unreleased", deqzoo.__version__)


def test_pre_commit_runs_the_checks_of_ci():
    hooks = [hook for repo in OmegaConf.load(ROOT / ".pre-commit-config.yaml").repos for hook in repo.hooks]
    script = (ROOT / ".ci" / "run").read_text()
    newest = script[script.index("enter newest") : script.index("enter oldest")]
    checks = [line for line in newest.splitlines() if line.startswith(("ruff", "mypy", "pytest"))]
    assert [hook.entry.split()[0] for hook in hooks] == [check.split()[0] for check in checks[: len(hooks)]]
    assert [hook.entry for hook in hooks[:3]] == checks[:3]
