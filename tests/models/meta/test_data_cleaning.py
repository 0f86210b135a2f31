"""Data cleaning: the corrupted set, a short training, what is told, and settings that cannot be."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data import ImageData, NoisyImageData
from deqzoo.errors import ConfigError
from deqzoo.training import Run
from tests.running import composed, run

SMALL = [
    "data=noisy_mnist",
    "data.name=noisy_digits",
    "data.train_size=120",
    "data.val_size=100",
    "data.repeats=6",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=False",
]


def test_noisy_labels_are_wrong_where_it_says():
    data = NoisyImageData("noisy_digits", train_size=400, val_size=100, corrupted=0.3, repeats=3)
    data.prepare_data()
    data.setup()
    plain = ImageData("digits", val_size=100)
    plain.setup()
    true = plain.labels[data.parts["train"]]
    assert data.wrong.sum() == 120
    assert torch.equal(data.noisy_labels != true, data.wrong)
    assert set(data.noisy_labels.tolist()) <= set(range(10))
    train, val, test = (set(data.parts[part].tolist()) for part in ("train", "val", "test"))
    assert len(train) == 400
    assert not train & val
    assert not (train | val) & test
    assert test == set(plain.parts["test"].tolist())
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    images, labels, clean, clean_labels = batches[0]
    assert torch.equal(images, plain.images[data.parts["train"]].float() / 16)
    assert torch.equal(labels, data.noisy_labels)
    assert torch.equal(clean_labels, plain.labels[data.parts["val"]])
    assert clean.shape == (100, 1, 8, 8)
    again = NoisyImageData("noisy_digits", seed=7, train_size=400, val_size=100, corrupted=0.3)
    again.setup()
    assert torch.equal(again.noisy_labels, data.noisy_labels)


def test_short_training(tmp_path):
    finished = run(tmp_path, "model=data_cleaning_mnist", *SMALL)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    check, test = metrics["cleaning"], metrics["test"]
    assert test["n"] == 360
    assert check["cleaned"] == pytest.approx(test["accuracy"], abs=1e-5)
    assert check["baseline"] < check["oracle"]
    assert check["trust_wrong"] < 0.5 < check["trust_right"]
    assert check["gap_closed"] == pytest.approx(
        (check["cleaned"] - check["baseline"]) / (check["oracle"] - check["baseline"])
    )
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"training.png", "trust.png"}
    assert "train/meta_residual" in (tmp_path / "metrics.csv").read_text()
    assert "## Are the wrong labels found?" in (tmp_path / "export" / "README.md").read_text()
    images, _ = next(iter(finished.data.test_dataloader()))
    model = deqzoo.load(tmp_path / "export")
    torch.testing.assert_close(model(images), finished.module.network(images))
    finished.module.step(finished.module.network, next(iter(finished.data.train_dataloader())), "train").loss.backward()
    gradient = finished.module.network.scores.grad
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).all()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.strength=0", "model.strength must be positive"),
        ("model.solver=anderson", "model.solver=anderson: valid are gradient_descent"),
        ("data.corrupted=1", "data.corrupted must lie in"),
        ("data.name=noisy_letters", "no data set 'letters'"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=data_cleaning_mnist", override), tmp_path)
