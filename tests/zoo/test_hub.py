"""Checkpoints that go to the Hugging Face Hub and come from it, by a small Hub on this machine."""

import json
import os
import runpy
import subprocess
import sys

import pytest
import torch
import yaml

import deqzoo
from deqzoo.errors import CheckpointError
from deqzoo.zoo import hub, shipped
from deqzoo.zoo.folder import FILES
from tests.running import ROOT
from tests.zoo import hub_server

ADDRESS = "hf://someone/digits"
SCRIPT = """
import json, sys, torch, deqzoo
said = []
for step in sys.argv[1:]:
    try:
        said.append(str(eval(step)))
    except deqzoo.CheckpointError as error:
        said.append(f"CheckpointError: {error}")
print(json.dumps(said))
"""
LOGITS = "deqzoo.load({!r})(torch.full((1, 1, 8, 8), 0.3)).tolist()"


@pytest.fixture
def the_hub(tmp_path):
    """A function that evaluates expressions with this Hub in a process of their own, and its repositories."""
    with hub_server.running() as (address, repositories):

        def evaluate(*steps, **env):
            env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_secret"} | env
            env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, "-c", SCRIPT, *steps], cwd=ROOT, env=os.environ | env, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        yield evaluate, repositories


def test_a_checkpoint_goes_there_and_comes_back(the_hub):
    evaluate, repositories = the_hub
    here = str(deqzoo.load("deq_digits")(torch.full((1, 1, 8, 8), 0.3)).tolist())
    pushed, loaded, missing, revision, wrong = evaluate(
        'deqzoo.push_to_hub("deq_digits", "someone/digits")',
        LOGITS.format(ADDRESS),
        LOGITS.format("hf://someone/else"),
        LOGITS.format(f"{ADDRESS}@v9"),
        LOGITS.format("hf://digits"),
    )
    assert pushed.startswith(f"{ADDRESS}@")
    assert loaded == here
    assert "there is no such repository, or it is private" in missing
    assert "has no such revision" in revision
    assert "is no address of a checkpoint: give hf://OWNER/NAME@REVISION" in wrong

    files = repositories["someone/digits"]["main"]
    assert set(files) >= {*FILES, "plots/training.png"}
    _, head, card = files["README.md"].decode().split("---\n", 2)
    metadata = yaml.safe_load(head)
    (result,) = metadata["model-index"][0]["results"]
    assert metadata["library_name"] == "deqzoo"
    assert result["dataset"]["name"] == "digits"
    assert result["metrics"][0]["value"] == json.loads(files["metrics.json"])["test"]["accuracy"]
    assert card.lstrip().startswith("# deq_digits")

    files["model.safetensors"] = files["model.safetensors"][:-4] + b"\0\0\1\1"  # the branch moves on; the commit stays
    offline, other, pinned, damaged = (
        *evaluate(LOGITS.format(pushed), LOGITS.format("hf://someone/else"), HF_HUB_OFFLINE="1"),
        *evaluate(LOGITS.format(pushed), LOGITS.format(ADDRESS)),
    )
    assert offline == pinned == here
    assert "is not in the cache, and the Hub is not reached" in other
    assert "HF_HUB_OFFLINE" in other
    assert damaged.startswith("CheckpointError")
    assert "model.safetensors" in damaged


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'deqzoo\[hub\]'"):
        deqzoo.load(ADDRESS)


def test_shipped_weights_may_lie_on_the_hub(tmp_path, monkeypatch):
    listed, folder = shipped.manifest(), shipped.shipped_folder("deq_digits")
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"deq_digits": listed["deq_digits"] | {"hub": f"{ADDRESS}@v1"}}))
    asked = []
    monkeypatch.setattr(shipped, "zoo_path", lambda group: tmp_path)
    monkeypatch.setattr(shipped, "hub_folder", lambda address: asked.append(address) or folder)
    assert shipped.shipped_folder("deq_digits") == folder
    assert asked == [f"{ADDRESS}@v1"]
    shipped.write_manifest()
    assert shipped.manifest()["deq_digits"]["hub"] == f"{ADDRESS}@v1"
    monkeypatch.setattr(shipped, "hub_folder", lambda address: tmp_path)
    with pytest.raises(CheckpointError):
        shipped.shipped_folder("deq_digits")


def test_an_address_is_told_from_a_path():
    with pytest.raises(CheckpointError, match="no address of a checkpoint"):
        hub.hub_folder("hf://a/b/c")


def test_torch_hub_offers_the_entries():
    offered = runpy.run_path(str(ROOT / "hubconf.py"))
    assert set(deqzoo.list_models(pretrained=True)) < set(offered["__dir__"]())
    with pytest.raises(RuntimeError, match="Cannot find callable deq_digit"):
        torch.hub.load(str(ROOT), "deq_digit", source="local")
    model = torch.hub.load(str(ROOT), "deq_digits", source="local", trainable=False)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
