"""Fine-tuning from the command line: the weights of an entry for other classes, its head alone or all of it."""

import json
import shutil

import pytest
import torch

from deqzoo.config import load_run
from deqzoo.errors import CheckpointError, ConfigError
from deqzoo.training import Run
from tests.data.test_image_folder import write_images
from tests.running import SMALL, composed, run

WORDS = [*SMALL, "model.solver_options.max_steps=11", "trainer.max_epochs=1"]
WORDS += ["data=folder", "data.size=8", "data.batch_size=13"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Trained on three classes of images."""
    folder = tmp_path_factory.mktemp("three")
    return run(folder / "run", *WORDS, f"data.root={write_images(folder / 'images', {'': 20})}")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """The folder of images of four classes."""
    images = write_images(tmp_path_factory.mktemp("four"), {"": 20})
    shutil.copytree(images / "cats", images / "newts")
    return images


def state(trained):
    return {name: value.clone() for name, value in trained.module.network.state_dict().items()}


def test_the_head_alone_is_trained_and_then_all(three, four, tmp_path, capsys):
    words = [*WORDS, f"data.root={four}", f"ckpt={three.folder}"]
    head = run(tmp_path / "head", *words, "model.train_only=[head.*]")
    assert f"ckpt={three.folder} has 3 classes: the last layer, of 4, starts anew" in capsys.readouterr().out
    before, after = state(three), state(head)
    assert after["head.linear.weight"].shape == (4, 8)
    for name, _ in head.module.network.named_parameters():
        if not name.startswith("head."):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, msg=name)
    start = Run(composed(*words), tmp_path / "start")
    assert not torch.equal(after["head.linear.weight"], state(start)["head.linear.weight"])
    capsys.readouterr()
    whole = run(tmp_path / "whole", *WORDS, f"data.root={four}", f"ckpt={tmp_path / 'head'}")
    assert "starts anew" not in capsys.readouterr().out
    assert not torch.equal(state(whole)["body.0.0.conv.weight"], after["body.0.0.conv.weight"])
    assert torch.equal(state(whole)["stem.0.weight"], before["stem.0.weight"])  # the whitening it was trained with
    recorded = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert recorded["started_from"]["started_from"]["command"] == three.metrics["command"]


def test_a_resumed_run_keeps_the_whitening(three, four, tmp_path):
    words = [*WORDS, f"data.root={four}", f"ckpt={three.folder}"]
    run(tmp_path, *words)
    (tmp_path / "metrics.json").unlink()
    resumed = Run(load_run(tmp_path, [f"resume={tmp_path}", "trainer.max_epochs=2"]), tmp_path)
    resumed.fit()
    assert torch.equal(state(resumed)["stem.0.weight"], state(three)["stem.0.weight"])


def test_what_does_not_fit_is_told(three, four, tmp_path):
    words = [*WORDS, f"data.root={four}", f"ckpt={three.folder}"]
    with pytest.raises(CheckpointError, match=r"names or shapes differ in head\.linear\.weight"):  # nothing to test
        Run(composed(*words, "mode=test"), tmp_path / "a")
    with pytest.raises(CheckpointError, match="names or shapes differ in body"):
        Run(composed(*words, "model.widths=[4]"), tmp_path / "b")
    with pytest.raises(ConfigError, match=r"model.train_only: no parameter fits 'hat.\*'; there are .*head.linear"):
        Run(composed(*words, "model.train_only=[hat.*]"), tmp_path / "c")
