"""Imports run one way: from the command line down to the implicit core."""

import ast
from pathlib import Path

import pytest

import deqzoo

PACKAGE = Path(deqzoo.__file__).parent
GROUND = {"errors", "paths", "atomic", "signals"}
BELOW: dict[str, set[str]] = {  # of each room, those that it may import
    "errors": set(),
    "signals": {"errors"},
    "paths": set(),
    "atomic": set(),
    "implicit": set(),
    "nn": {"implicit"},
    "compat": {"implicit"},
    "data": {"implicit"} | GROUND,
    "plots": {"nn", "implicit"} | GROUND,
    "models": {"plots", "data", "nn", "implicit"} | GROUND,
    "config": {"models", "data"} | GROUND,
    "zoo": {"config", "models", "data", "nn", "implicit"} | GROUND,
    "docs": {"zoo", "models"} | GROUND,
    "training": {"zoo", "config", "models", "data", "nn", "implicit", ""} | GROUND,  # "": the package's version
    "launch": {"training", "config"} | GROUND,
    "__main__": {"training", "docs", "zoo"} | GROUND,
}


def room_of(module: str) -> str:
    """`nn` of `deqzoo.nn.deq`; nothing of `deqzoo` itself."""
    return [*module.split("."), ""][1]


def imported(file: Path) -> set[str]:
    """Modules of deqzoo that a file imports, at its top or inside of a function."""
    module = ("deqzoo", *file.relative_to(PACKAGE).with_suffix("").parts)
    package = module[:-1]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            # `from deqzoo import config` names a room, `from deqzoo import __version__` does not
            found |= {f"deqzoo.{alias.name}" for alias in node.names if name == "deqzoo" and alias.name in BELOW}
            found |= {name} if name != "deqzoo" or not any(alias.name in BELOW for alias in node.names) else set()
    return {name for name in found if name.split(".")[0] == "deqzoo"}


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file != PACKAGE / "__init__.py"]  # it imports on first use


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_import_runs_up(file):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    rooms = {room_of(module) for module in imported(file)} - {room}
    assert rooms <= BELOW[room], f"{room} may not import {sorted(rooms - BELOW[room])}"


def test_a_family_imports_no_other():
    for file in sorted((PACKAGE / "models").glob("*/*.py")):
        families = {name.split(".")[2] for name in imported(file) if name.startswith("deqzoo.models.")}
        shared = {"common", "build", "registry"}
        assert families - shared <= {file.parent.name}, file


def test_the_check_sees_imports_of_each_form(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_house.PACKAGE", tmp_path)
    (tmp_path / "nn").mkdir()
    file = tmp_path / "nn" / "layer.py"
    file.write_text(
        "import deqzoo.zoo\nfrom deqzoo import config\nfrom ..implicit import x\n"
        "def f():\n    from deqzoo.models.build import y\n    from .deq import z\n    import torch\n"
    )
    assert {room_of(name) for name in imported(file)} == {"zoo", "config", "implicit", "models", "nn"}
