"""Only what its recipe made may be shipped under its command; a run that goes on says where the recipe has changed."""

import re
import warnings

import pytest
from omegaconf import OmegaConf

from deqzoo.__main__ import main
from deqzoo.errors import CheckpointError
from deqzoo.training import as_recipe
from deqzoo.training.as_recipe import check_recipe, of_recipe, warn_of_changes
from tests.running import SMALL, composed, run, train_py


def run_of(folder, *words):
    """A run's folder, with its configuration alone."""
    OmegaConf.save(composed(*words), folder / "config.yaml")
    return folder


def test_what_decides_no_number_may_differ(tmp_path):
    words = ("data.root=elsewhere", "seed=3", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu")
    assert check_recipe(run_of(tmp_path, "model=deq_digits", *words)) == of_recipe("deq_digits")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("trainer.max_epochs=3", r"trainer\.max_epochs was 3, not \d+"),
        ("model.lr=0.01", r"model\.lr was 0\.01, not"),
        ("data.augment.cutout=5", r"data\.augment\.cutout was 5, not 0"),
        ("stages=['model=deq_digits']", r"stages was \['model=deq_digits'\], not \[\]"),
        ("trainer.limit_train_batches=4", r"trainer\.limit_train_batches was 4, not None"),
    ],
)
def test_a_run_with_other_settings_is_not_published(tmp_path, word, told):
    run = run_of(tmp_path, "model=deq_digits", word)
    with pytest.raises(CheckpointError, match=rf"was not models/deq_digits\.yaml as it stands: {told}.*Train it by"):
        check_recipe(run)
    with pytest.raises(SystemExit, match="as it stands"):
        main(["publish", str(run)])


def test_unless_the_recipe_says_how_it_was_trained(tmp_path, monkeypatch):
    run = run_of(tmp_path, "model=deq_digits", "model.lr=0.5")
    monkeypatch.setattr(as_recipe, "head", lambda name, label: {"Trained": "with lr 0.5"}.get(label, ""))
    assert check_recipe(run)["model"]["lr"] == 0.5


def going_on(*words, **settings):
    """The configuration of a run that was started by these words, when its recipe had other settings."""
    config = composed("model=deq_digits", *words)
    config.overrides = ["model=deq_digits", *words]
    for name, value in settings.items():
        OmegaConf.update(config, name.replace("__", "."), value)
    return config


def test_a_run_that_goes_on_with_the_recipe_as_it_stands_says_nothing():
    lengths = ("trainer.max_epochs=3", "trainer.max_epochs=5", "resume=last", "hydra.run.dir=x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_changes(going_on("model.lr=0.5", "data=mnist", "seed=4", *lengths))
        warn_of_changes(going_on(trainer__max_epochs=7, trainer__max_steps=9, trainer__accelerator="cpu"))
        unknown = going_on(model__lr=0.5)
        unknown.entry = "of_old"
        warn_of_changes(unknown)


def test_a_run_that_goes_on_lists_what_its_recipe_has_otherwise():
    now = of_recipe("deq_digits")["model"]["lr"]
    with pytest.warns(UserWarning, match="deq_digits") as caught:
        warn_of_changes(going_on("model.weight_decay=0.25", model__lr=0.5, data__batch_size=7))
    told = str(caught[0].message)
    assert f"model.lr: 0.5 -> {now}" in told
    assert re.search(r"data\.batch_size: 7 -> \d+", told)
    assert "weight_decay" not in told


def test_the_command_line_warns_and_goes_on(tmp_path):
    words = [*SMALL, "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_test_batches=1"]
    folder = tmp_path / "outputs" / "deq_digits" / "2026-01-01_00-00-00"
    run(folder, *words, "seed=3")
    (folder / "metrics.json").unlink()
    config = OmegaConf.load(folder / "config.yaml")
    config.model.lr = 0.015625
    OmegaConf.save(config, folder / "config.yaml")
    told = train_py("resume=last", "trainer.max_epochs=2", "trainer.enable_progress_bar=True", cwd=tmp_path)
    assert told.stdout.startswith(f"deq_digits: mode=fit, seed=3, in {folder}\n")
    assert "model.lr: 0.015625 -> " in told.stderr
    assert (folder / "metrics.json").is_file()
    wrong = train_py(f"resume={folder}", "model=deq_cifar", cwd=tmp_path, check=False)
    assert wrong.returncode == 1
    assert "is a run of deq_digits, not of deq_cifar" in wrong.stderr
