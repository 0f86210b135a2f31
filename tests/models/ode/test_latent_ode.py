"""Training latent ODEs: what is shown, what is measured, and what they are compared with."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch

import deqzoo
from deqzoo.data.series import SeriesBatch
from deqzoo.errors import ConfigError
from deqzoo.models import LatentODE
from deqzoo.models.common.kind import Trained
from deqzoo.models.ode.config import LatentODETraining
from deqzoo.models.ode.latent_ode_kind import compare, interpolate
from deqzoo.models.ode.latent_ode_module import LatentODEModule, observed_part
from deqzoo.models.ode.latent_ode_network import Bound
from deqzoo.training import Run
from deqzoo.zoo.baseline import find_baseline
from tests.running import composed, run

SMALL = [
    "model=latent_ode_spiral",
    "data.batch_size=300",
    "data.repeats=2",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=False",
    "trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("runs") / "a", *SMALL)


def test_run_measures_inside_and_beyond_the_window(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    names = {f"rmse{where}{share}" for where in ("", "_beyond") for share in ("", "_30", "_50")}
    assert names <= set(metrics["test"])
    assert metrics["test"]["n"] == 1000
    assert metrics["steps"] == 6
    drawn = {path.name for path in (finished.folder / "plots").iterdir()}
    assert drawn == {"training.png", "series.png", "series.gif", "plane.png"}
    assert (finished.folder / "plots" / "series.gif").read_bytes().startswith(b"GIF8")


def test_loaded_export_predicts_with_the_error_of_its_metrics(finished):
    model = deqzoo.load(finished.folder / "export")
    data = SeriesBatch(*next(iter(finished.data.test_dataloader())))
    error = model(data.times[0], data.values, observed_part(data, 0.3)) - data.truth
    rmse = error[:, :100].square().mean().sqrt().item()
    assert rmse == pytest.approx(finished.metrics["test"]["rmse_30"], rel=1e-4)
    tight = deqzoo.load(finished.folder / "export", solver="dopri8", tol=1e-6)
    again = tight(data.times[0], data.values, observed_part(data, 0.3)) - data.truth
    assert again[:, :100].square().mean().sqrt().item() == pytest.approx(rmse, rel=1e-2)


def test_mode_test_repeats_the_number(finished, tmp_path):
    again = run(tmp_path, *SMALL, "mode=test", f"ckpt={finished.folder}")
    assert again.metrics["test"] == finished.metrics["test"]


def test_comparison_holds_the_entry_and_linear_interpolation(finished):
    comparison = finished.metrics["comparison"]
    assert set(comparison) == {"this entry", "linear interpolation"}
    assert comparison["this entry"]["rmse"] == pytest.approx(finished.metrics["test"]["rmse"], rel=1e-4)
    assert comparison["linear interpolation"]["rmse"] == pytest.approx(0.1, abs=0.01)  # the noise of each point
    card = (finished.folder / "export" / "README.md").read_text()
    assert "## How does it compare?" in card


def test_baseline_is_measured_beside(finished):
    folder = finished.folder / "export"
    settings = replace(finished.settings.model, baseline=str(folder))
    network = finished.module.trained_network
    find = partial(find_baseline, data=finished.data)
    comparison = compare(Trained(network, settings, finished.data, torch.device("cpu"), [{"step": 5}], find))
    other = comparison[f"`{folder}`"]
    assert other["rmse"] == pytest.approx(finished.metrics["test"]["rmse"], rel=1e-4)
    assert other["note"] == f"{finished.metrics['parameters']:,} parameters, 6 steps"
    assert comparison["this entry"]["note"] == other["note"]


def test_training_shows_random_shares_of_the_window(finished, monkeypatch):
    seen = []
    network = finished.module.network
    module = LatentODEModule(network, min_observed_fraction=0.4)
    module.trainer = finished.module.trainer
    monkeypatch.setattr(
        LatentODE,
        "elbo",
        lambda self, times, values, shown, scored, **_: seen.append((shown, scored)) or _bound(values),
    )
    data = SeriesBatch(*next(iter(finished.data.train_dataloader())))
    module.step(network, data, "train")
    ((shown, scored),) = seen
    assert shown.shape[1] == 100  # what is beyond was never measured
    assert scored.all()
    assert (shown[..., 0] == shown[..., 1]).all()
    counts = shown[..., 0].sum(1)
    assert counts.min() >= 40
    assert counts.max() <= 100
    assert counts.float().mean().item() == pytest.approx(70, abs=3)


def test_training_hides_single_values_where_asked():
    module = LatentODEModule(
        LatentODE(channels=2, mean=[0.0] * 2, std=[1.0] * 2), min_observed_fraction=0.5, hidden_by="values"
    )
    inside = torch.arange(60).expand(200, -1) < 40
    shown = module._random_part(inside, 2)
    assert not shown[:, 40:].any()
    assert (shown[..., 0] != shown[..., 1]).any()
    assert shown[:, :40].float().mean().item() == pytest.approx(0.75, abs=0.03)
    with pytest.raises(ValueError, match="hidden_by=rows: valid are times, values"):
        LatentODETraining(hidden_by="rows")


def test_training_asks_for_consistency_at_random_times(finished, monkeypatch):
    network, starts = finished.module.network, []
    whole = LatentODE.inconsistency

    def noted(self, path, times, values, observed, start):
        assert path.shape[:2] == (100, len(values))
        starts.append(start)
        return whole(self, path, times, values, observed, start)

    monkeypatch.setattr(LatentODE, "inconsistency", noted)
    data = SeriesBatch(*next(iter(finished.data.train_dataloader())))
    losses = {}
    for weight in (0.0, 1e3, 3e3):
        module = LatentODEModule(network, consistency_weight=weight)
        module.trainer = finished.module.trainer
        torch.manual_seed(0)
        step = module.step(network, data, "train")
        losses[weight] = step.loss
        assert ("inconsistency" in step.metrics) == (weight > 0)
    per_value = step.metrics["inconsistency"] * len(data.values) / data.measured.sum()
    # The losses are hundreds in float32.
    torch.testing.assert_close(losses[3e3] - losses[1e3], 2e3 * per_value, rtol=1e-4, atol=0)
    torch.testing.assert_close(losses[1e3] - losses[0.0], 1e3 * per_value, rtol=1e-4, atol=0)
    for _ in range(20):
        module.step(network, data, "train")
    assert min(starts) >= 1
    assert max(starts) <= 80
    assert len(set(starts)) > 10


def _bound(values):
    return Bound(values.sum((1, 2)), values.sum((1, 2)), values.transpose(0, 1))


def test_divergence_gets_its_weight_step_by_step():
    module = LatentODEModule(LatentODE(channels=1, mean=[0.0], std=[1.0]), kl_annealing=0.5, kl_weight=2.0)

    class Trainer:
        estimated_stepping_batches, global_step = 100, 10

    module._trainer = Trainer()
    assert module._kl_weight() == pytest.approx(0.4)
    module._trainer.global_step = 80
    assert module._kl_weight() == 2.0


def test_interpolation_takes_neighbours_and_the_mean():
    times = torch.tensor([0.0, 1.0, 3.0, 4.0])
    values = torch.tensor([[1.0, 5.0], [0.0, 0.0], [4.0, 0.0], [0.0, 0.0]])[None]
    observed = torch.tensor([[True, False], [False, False], [True, False], [False, False]])[None]
    line = interpolate(times, values, observed, torch.tensor([7.0, 8.0]))[0]
    assert line.tolist() == [[1.0, 8.0], [2.0, 8.0], [4.0, 8.0], [4.0, 8.0]]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.encoder=lstm", "model.encoder=lstm: valid are gru, ode_rnn"),
        ("model.dynamics=lstm", "model.dynamics=lstm: valid are gru, ode"),
        ("model.solver=tsit6", "^model.solver=tsit6: valid are bosh3"),
        ("model.noise=-1", "noise must be positive"),
        ("model.observed_fractions=[0.5]", "with 1 among them"),
        ("model.dynamics=gru", "consistency_weight needs dynamics that do not depend on time: ode; with gru it is 0"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed(*SMALL, override), tmp_path)


def test_shares_and_weights_are_checked():
    with pytest.raises(ValueError, match="min_observed_fraction must lie in"):
        LatentODETraining(min_observed_fraction=2.0)
