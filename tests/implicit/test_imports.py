"""The files of the core import each other one way: there is an order in which to read them."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import deqzoo

CORE = Path(deqzoo.__file__).parent / "implicit"


def imported(file: Path) -> set[Path]:
    """Files of the core that a file imports, at its top, for types alone, or inside of a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [(base / alias.name).with_suffix(".py") for alias in node.names]
            candidates = [base.with_suffix(".py"), *names]
            if base not in file.parents:  # a package imports its own files
                candidates.append(base / "__init__.py")
            found |= {path for path in candidates if path.is_file() and CORE in path.parents}
    return found - {file}


def test_no_file_imports_another_in_a_circle():
    graph = {file: imported(file) for file in CORE.rglob("*.py") if file != CORE / "__init__.py"}
    assert len(graph) > 50  # else the files were not found
    assert sum(map(len, graph.values())) > 200
    tuple(TopologicalSorter(graph).static_order())  # raises a CycleError, which names the circle
