"""The package's own face: light to import, and clear about what it offers."""

import subprocess
import sys

import pytest

import deqzoo
from deqzoo import implicit, paths


def test_import_needs_no_torch():
    code = "import sys, deqzoo, deqzoo.data.config, deqzoo.paths; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    assert set(deqzoo.__all__) <= set(dir(deqzoo))
    for name in deqzoo.__all__:
        assert getattr(deqzoo, name) is not None


def test_unknown_name_lists_what_there_is():
    with pytest.raises(
        AttributeError, match="no attribute 'laod'; it offers CheckpointError, ContinuousFlow, ConvergenceMonitor, DEQ"
    ):
        deqzoo.laod  # noqa: B018


def test_zoo_of_an_installed_wheel_goes_before_the_checkout(tmp_path, monkeypatch):
    package = tmp_path / "deqzoo"
    package.mkdir()
    monkeypatch.setattr(paths, "__file__", str(package / "paths.py"))
    assert paths.zoo_path("models") == tmp_path / "models"
    (package / "_zoo" / "models").mkdir(parents=True)
    assert paths.zoo_path("models") == package / "_zoo" / "models"


def test_an_old_name_works_and_warns_with_the_new_one():
    with pytest.warns(DeprecationWarning, match="is called ODESolver now") as caught:
        assert implicit.OdeSolver is implicit.ODESolver
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match="has no attribute 'OdeSolvers'"):
        implicit.OdeSolvers  # noqa: B018
