"""Trainings in stages: what a recipe trains first."""

import json
import os
import re
import shlex
import signal

import pytest
import torch
from hydra.errors import HydraException

from deqzoo.config import load_run
from deqzoo.errors import ConfigError, Stopped
from deqzoo.models import Classifier
from deqzoo.models.common.metrics import total
from deqzoo.training import Run
from deqzoo.zoo.cards import model_card
from tests.running import SMALL, run

SHORT = [*SMALL, "trainer.max_epochs=1"]  # nine steps


def stages(*words):
    return f"stages={json.dumps(words)}"


STAGES = stages("model.lr=5e-2 model.momentum=0.5", "model.momentum=0.3")


def weights(trained):
    return trained.module.state_dict()


def assert_equal_weights(one, other):
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=0, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "a", *SHORT, "model.lr=2e-2", STAGES)


def test_each_stage_starts_from_the_weights_of_the_one_before(staged, tmp_path):
    shared = [*SHORT, "model.lr=2e-2"]  # the command line stands above a stage's own lr
    one = run(tmp_path / "1", *shared, "model.momentum=0.5")
    two = run(tmp_path / "2", *shared, "model.momentum=0.3", f"ckpt={one.checkpoint}")
    three = run(tmp_path / "3", *shared, f"ckpt={two.checkpoint}")
    assert_equal_weights(three, staged)
    assert three.metrics["test"] == staged.metrics["test"]


def test_the_metrics_tell_how_each_stage_was_trained(staged):
    folders = staged.folder / "stage_1", staged.folder / "stage_2", staged.folder
    first, second, last = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert last["started_from"]["command"] == second["command"]
    assert last["started_from"]["started_from"]["command"] == first["command"]
    words = shlex.join(SHORT)
    assert first["command"] == (
        f"python train.py model=deq_digits 'stages=[]' model.lr=5e-2 model.momentum=0.5 {words} model.lr=2e-2 seed=0"
    )
    assert total("steps", last) == 27
    assert total("time", last) > last["time"]
    card = model_card(json.loads((staged.folder / "export" / "config.json").read_text()), last)
    assert f"weights of | `{second['command']}`, 9 steps, " in card
    assert f"; these from those of `{first['command']}`, 9 steps, " in card
    assert "test" not in first  # test data choose nothing, and cost time


def test_a_run_killed_in_a_stage_goes_on_there(staged, tmp_path, monkeypatch):
    begun = []

    def step(self, batch, batch_idx):
        if self.global_step == 0:
            begun.append(None)
        if len(begun) == 2 and self.global_step == 6:
            begun.append(None)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, batch_idx)

    original = Classifier.training_step
    monkeypatch.setattr("deqzoo.signals._end_process_later", lambda signum: None)
    monkeypatch.setattr(Classifier, "training_step", step)
    with pytest.raises(Stopped, match=re.escape(f"`python train.py resume={tmp_path}` goes on")):  # not of the stage
        run(tmp_path, *SHORT, "model.lr=2e-2", STAGES, "save_every_n_steps=4")
    assert (tmp_path / "stage_1" / "metrics.json").exists()
    assert not (tmp_path / "stage_2" / "metrics.json").exists()
    with pytest.raises(ConfigError, match=r"holds a run already \(stage_1\): resume it by `resume="):
        run(tmp_path, *SHORT)
    before = (tmp_path / "stage_1" / "last.ckpt").stat().st_mtime_ns
    resumed = Run(load_run(tmp_path, [f"resume={tmp_path}"]), tmp_path)
    resumed.fit()
    assert (tmp_path / "stage_1" / "last.ckpt").stat().st_mtime_ns == before
    assert len(begun) == 4  # stage 1, stage 2, the fault in it, the last
    assert_equal_weights(resumed, staged)


@pytest.mark.slow
def test_a_stage_may_be_another_entry(tmp_path):
    words = [*SHORT, "data=digits", "model.body=equilibrium", "seed=5"]
    first = run(tmp_path / "1", "model=deq_cifar_small", *words)
    by_hand = run(tmp_path / "2", "model=explicit_cifar_small", *words, f"ckpt={first.checkpoint}")
    staged = run(tmp_path / "3", "model=explicit_cifar_small", *words, stages("model=deq_cifar_small"))
    assert_equal_weights(staged, by_hand)
    assert staged.metrics["started_from"]["command"] == first.metrics["command"]


def test_given_weights_skip_the_stages(staged, tmp_path):
    started = run(tmp_path, *SHORT, f"ckpt={staged.checkpoint}", stages("trainer.max_epochs=0"))
    assert not (tmp_path / "stage_1").exists()
    assert started.metrics["started_from"] is None  # of a file alone nothing is known


def test_a_stage_with_a_wrong_setting_says_so(tmp_path):
    with pytest.raises(HydraException, match=r"Could not override 'model\.widhts'"):
        run(tmp_path, *SHORT, stages("model.widhts=3"))
