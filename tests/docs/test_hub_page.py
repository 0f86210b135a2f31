"""The page about the Hugging Face Hub: its code runs, against a small Hub on this machine."""

import os
import subprocess
import sys

import pytest

from tests.running import ROOT
from tests.texts import python_blocks
from tests.zoo import hub_server


def test_python_runs(tmp_path):
    pytest.importorskip("huggingface_hub", reason="needs pip install -e '.[hub]'")
    blocks = python_blocks(ROOT / "docs" / "tutorials" / "hub.md")
    assert len(blocks) == 4
    with hub_server.running() as (address, repositories):
        env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secret", "OMP_NUM_THREADS": "1"}
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", "\n".join(blocks)]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(repositories) == ["someone/digits"]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("hf://someone/digits@")
    assert lines[1].endswith("('0', '1')")
    assert "there is no such repository, or it is private" in lines[-1]
