"""Learned decays: the data, a short training, what is compared, and settings that cannot be."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data import FewImageData, ImageData
from deqzoo.errors import ConfigError
from deqzoo.training import Run
from tests.running import composed, run

SMALL = [
    "data=few_mnist",
    "data.name=few_digits",
    "data.train_size=60",
    "data.val_size=200",
    "data.repeats=8",
    "model.filters=4",
    "trainer.enable_progress_bar=False",
]


def test_few_images_are_drawn_by_the_seed_and_held_out_ones_are_not():
    options = {"train_size": 300, "val_size": 100, "repeats": 3}
    data = FewImageData("few_digits", **options)
    data.prepare_data()
    data.setup()
    plain = ImageData("digits", val_size=100)
    plain.setup()
    train, val, test = (set(data.parts[part].tolist()) for part in ("train", "val", "test"))
    assert len(train) == 300
    assert not train & val
    assert not (train | val) & test
    assert test == set(plain.parts["test"].tolist())
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    images, labels, held_out, their_labels = batches[0]
    assert torch.equal(images, plain.images[data.parts["train"]].float() / 16)
    assert torch.equal(labels, plain.labels[data.parts["train"]])
    assert torch.equal(their_labels, plain.labels[data.parts["val"]])
    assert held_out.shape == (100, 1, 8, 8)
    again, other = (FewImageData("few_digits", seed=seed, **options) for seed in (0, 7))
    again.setup()
    other.setup()
    assert torch.equal(again.parts["train"], data.parts["train"])
    assert not torch.equal(other.parts["train"], data.parts["train"])
    assert torch.equal(other.parts["val"], data.parts["val"])


def test_short_training(tmp_path):
    finished = run(tmp_path, "model=hyper_mnist", *SMALL)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    check, test = metrics["decays"], metrics["test"]
    assert test["n"] == 360
    assert 1 - check["learned"] == pytest.approx(test["accuracy"], abs=1e-5)
    assert check["learned_validation"] < check["single_validation"]
    assert check["best_test"] == min(row["test"] for row in check["grid"]) <= check["single"]
    assert check["single_validation"] == min(row["validation"] for row in check["grid"])
    assert check["reduction"] == pytest.approx(1 - check["learned"] / check["single"])
    assert len(check["grid"]) == 8
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"training.png", "decays.png"}
    assert "train/meta_residual" in (tmp_path / "metrics.csv").read_text()
    assert "## Is a decay per weight better than a single one?" in (tmp_path / "export" / "README.md").read_text()
    images, _ = next(iter(finished.data.test_dataloader()))
    model = deqzoo.load(tmp_path / "export")
    torch.testing.assert_close(model(images), finished.module.network(images))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.start=0", "model.start must be positive"),
        ("model.filters=0", "model.filters must be at least 1"),
        ("model.linear_solver=anderson", "model.linear_solver=anderson: valid are"),
        ("data.name=few_letters", "no data set 'letters'"),
        ("data.train_size=0", "data.train_size must be at least 1"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=hyper_mnist", override), tmp_path)


def test_more_images_than_there_are():
    data = FewImageData("few_digits", train_size=5000, val_size=100)
    with pytest.raises(ValueError, match=r"data.train_size=5000 of .* lower it"):
        data.setup()
