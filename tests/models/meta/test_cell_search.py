"""The search for a cell: a short training, what it is compared with, and settings that cannot be."""

import json

import pytest
import torch

import deqzoo
from deqzoo.errors import ConfigError
from deqzoo.training import Run
from tests.running import composed, run

SMALL = [
    "data.train_size=60",
    "data.val_size=100",
    "data.repeats=4",
    "model.channels=3",
    "trainer.enable_progress_bar=False",
]


def test_short_training(tmp_path):
    finished = run(tmp_path, "model=darts_digits", *SMALL)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    check, test, network = metrics["search"], metrics["test"], finished.module.network
    assert test["n"] == 360
    assert 1 - check["implicit"]["test_error"] == pytest.approx(test["accuracy"], abs=1e-5)
    assert network.temperature == pytest.approx(0.01)
    assert [check[name]["steps"] for name in ("implicit", "first_order", "random")] == [4, 5, 8]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"training.png", "cell.png"}
    history = (tmp_path / "metrics.csv").read_text()
    assert "train/meta_residual" in history
    assert "train/decided" in history
    images, _ = next(iter(finished.data.test_dataloader()))
    model = deqzoo.load(tmp_path / "export")
    torch.testing.assert_close(model(images), network(images))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.strength=0", "model.strength must be positive"),
        ("model.channels=0", "model.channels must be at least 1"),
        ("model.last_temperature=0", r"last_temperature must lie in \(0, 1\]"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=darts_digits", override), tmp_path)
