"""The mutation run, on a project of one module, three of whose faults its tests do not notice; its table of tests."""

import fnmatch
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tools.mutants import find_mutants

TOOL = Path(__file__).parents[2] / "tools" / "mutation.py"
MODULE = '''"""Text: 1 < 2."""

LIMIT = 10


def clamp(x: int | None) -> int:
    """0 <= x <= 10."""
    if x is None or x < 0:
        return 0
    while x > LIMIT:
        x -= 1
    return x
'''
TEST = """from {package}.clamp import clamp


def test_clamp():
    assert [clamp(x) for x in (None, -3, 4, 12)] == [0, 0, 4, 10]
"""
CONFIG = """sources = ["{package}/*.py"]
copy = ["{package}", "test_clamp.py", "pytest.ini"]
preload = []
limit = 2

[tests]
"{package}/*" = ["test_clamp.py"]
"""


def run(root, *options):
    command = [sys.executable, TOOL, "--root", root, "--config", root / "mutation.toml", "--results", root / "r.json"]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take long to load
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.splitlines()


def test_faults_are_found_run_and_reported(tmp_path):
    package = "clamping"
    files = {
        f"{package}/clamp.py": MODULE,
        "test_clamp.py": TEST.format(package=package),
        "mutation.toml": CONFIG.format(package=package),
        "pytest.ini": "[pytest]\npythonpath = .\n",
    }
    (tmp_path / package).mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    *_, first = run(tmp_path, "--count", "3")
    assert first.startswith("3 of 3 mutants run")
    before = json.loads((tmp_path / "r.json").read_text())["mutants"]

    *survivors, last = [line for line in run(tmp_path) if not re.match(r"\d+/\d+ ", line)]
    results = json.loads((tmp_path / "r.json").read_text())["mutants"]
    assert {name: results[name] for name in before} == before, "those of the first run are not run again"
    assert {name: (tmp_path / name).read_text() for name in files} == files, "the checkout is never touched"
    assert [re.sub(r" \[\d+\]", "", line) for line in survivors] == [
        f"{package}/clamp.py:11 constant: 1 -> 2",  # no test of a number that is above by an odd one
        f"{package}/clamp.py:8 comparison: < -> <=",  # makes no difference
        f"{package}/clamp.py:8 constant: 0 -> 1",  # nor does this
    ]
    assert last == "12 of 12 mutants run: 8 killed, 1 timeout, 3 survived; 75% noticed"
    (endless,) = [name for name, result in results.items() if result["outcome"] == "timeout"]
    assert endless.endswith("statement: x -= 1 -> pass")


def test_what_is_a_fault_and_what_is_not():
    mutants = find_mutants("clamp.py", MODULE)
    lines = [mutant.apply(MODULE).splitlines() for mutant in mutants]
    original = MODULE.splitlines()
    for mutant, changed in zip(mutants, lines, strict=True):
        assert [i for i, line in enumerate(changed, start=1) if line != original[i - 1]] == [mutant.line]
        compile("\n".join(changed), mutant.name, "exec")
    assert {mutant.line for mutant in mutants} == {3, 8, 9, 10, 11}, "not text, nor annotations"
    assert len({mutant.name for mutant in mutants}) == len(mutants)


def test_each_module_has_tests_in_the_table():
    config = tomllib.loads((TOOL.parent / "mutation.toml").read_text())
    root = TOOL.parents[1]
    files = [path.relative_to(root).as_posix() for pattern in config["sources"] for path in root.glob(pattern)]
    assert len(files) > 50
    used = {fnmatch_first(file, config["tests"]) for file in files}
    assert used == set(config["tests"]), "each pattern is the first that some module matches"
    missing = [test for tests in config["tests"].values() for test in tests if not (root / test).is_file()]
    assert not missing


def fnmatch_first(file, table):
    return next(pattern for pattern in table if fnmatch.fnmatch(file, pattern))
