"""Only what its recipe made may be shipped under its command."""

import pytest
from omegaconf import OmegaConf

from deqzoo.__main__ import main
from deqzoo.errors import CheckpointError
from deqzoo.training.as_recipe import check_recipe, of_recipe
from tests.running import composed


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


def test_unless_the_recipe_says_how_it_was_trained(tmp_path):
    run = run_of(tmp_path, "model=mondeq_mnist", "model.lr=0.5")  # its head comment has a line "Trained"
    assert check_recipe(run)["model"]["lr"] == 0.5
