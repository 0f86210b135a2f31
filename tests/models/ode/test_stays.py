"""Models of stays in intensive care: what they read, their errors, a short training, bad input."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.stays import StayBatch
from deqzoo.errors import ConfigError
from deqzoo.models.ode.config import StayTraining
from deqzoo.models.ode.stay_check import INTERPOLATION_CHECK, auc, mortality_rows, verdict
from deqzoo.models.ode.stay_module import LatentStayModule, StayModule, stay_errors
from deqzoo.models.ode.stay_network import CLIP, LatentODEClassifier
from tests.data.stay_files import write_stays
from tests.running import run

KNOWN = {"classes": ["survived", "died"], "mean": [0, 1], "std": [1, 2], "low": [-3, 0], "high": [3, 4]}


def small(**options):
    torch.manual_seed(0)
    given = KNOWN | {"latent": 3, "hidden": 5, "width": 4} | options
    return LatentODEClassifier(channels=2, **given)


@pytest.fixture
def seen():
    random = torch.Generator().manual_seed(0)
    values = torch.randn(3, 6, 2, generator=random)
    observed = torch.rand(values.shape, generator=random) < 0.5
    observed[:, 2] = True
    return torch.linspace(0, 2, 6), values, observed


@pytest.mark.parametrize("encoder", ["gru", "ode_rnn"])
def test_what_is_not_observed_makes_no_difference(encoder, seen):
    network, (times, values, observed) = small(encoder=encoder), seen
    other = torch.where(observed, values, torch.nan)
    for answer in (network, network.predict):
        torch.testing.assert_close(answer(times, other, observed), answer(times, values, observed))
        assert (answer(times, values + 1, observed) - answer(times, values, observed)).abs().max() > 1e-5


def test_typing_errors_are_read_as_the_outermost_values(seen):
    network, (times, values, observed) = small(), seen
    wild, edge = values.clone(), values.clone()
    wild[0, 2, 1], edge[0, 2, 1] = 1e6, 1 + 2 * CLIP
    torch.testing.assert_close(network(times, wild, observed), network(times, edge, observed))


def test_bad_input_has_an_error_that_names_the_mend(seen):
    network, (times, values, observed) = small(), seen
    nothing = observed.clone()
    nothing[1] = False
    with pytest.raises(ValueError, match="series 1 has no observation: leave it out"):
        network(times, values, nothing)
    with pytest.raises(ValueError, match="increasing, common to all series"):
        network.predict(times.flip(0), values, observed)
    with pytest.raises(ValueError, match=r"must be \(B, T, 2\), got \(3, 6, 1\)"):
        network(times, values[..., :1], observed)
    with pytest.raises(ValueError, match="series 0 has nan as an observed value"):
        network(times, torch.where(observed, torch.nan, values), observed)
    with pytest.raises(ValueError, match=r"call predict\(times, values, observed, at\)"):
        network(times, values, observed, times)
    with pytest.raises(ValueError, match="noise must be positive"):
        small(noise=-1.0)
    with pytest.raises(ValueError, match=r"hidden_fraction must lie in \[0, 1\), got 1"):
        StayTraining(hidden_fraction=1)


def batch_of(values, counts, scatter=0.0, labels=(0, 1)):
    values = torch.as_tensor(values)
    counts = torch.as_tensor(counts)
    spread = torch.full(values.shape, scatter).where(counts > 0, 0.0)
    return StayBatch(torch.arange(2.0).expand(2, -1), values, counts, spread, torch.tensor(labels))


def test_errors_are_those_of_single_measurements():
    # Channel 1 of the first stay was measured as 1 and 3 at the first time; of the second stay channel 2 as 4.
    values = [[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]]
    counts = [[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    data = batch_of(values, counts)._replace(scatter=torch.tensor([[[2.0, 0], [0, 0]], [[0, 0], [0, 0]]]))
    errors, found = stay_errors(data, torch.zeros(2, 2, 2), torch.tensor([1.0, 2.0]))
    assert errors.tolist() == [[10.0, 0.0], [0.0, 4.0]]
    assert found.tolist() == [[2.0, 0.0], [0.0, 1.0]]


def test_what_is_hidden_in_training_is_a_part_of_what_was_measured():
    module = StayModule(small(), hidden_fraction=0.9)
    counts = torch.zeros(2, 50, 2)
    counts[0], counts[1, 3, 1] = 1.0, 1.0
    data = batch_of(torch.zeros(2, 50, 2), counts)
    torch.manual_seed(0)
    shown = torch.stack([module.shown(data, "train") for _ in range(200)])
    assert not (shown & ~data.observed).any()
    assert shown[:, 1, 3, 1].all()  # never all of a stay
    assert 0.5 < shown[:, 0].float().mean() < 0.6
    assert torch.equal(module.shown(data, "test"), data.observed)


def test_auc_counts_pairs_in_the_right_order():
    data = batch_of([[[1.0, 0.0]] * 2, [[3.0, 0.0]] * 2], torch.ones(2, 2, 2))

    def by_value(times, values, observed):
        return torch.stack([torch.zeros(len(values)), values[:, 0, 0]], 1)

    assert auc(by_value, [tuple(data)]) == (1.0, 2)
    assert auc(by_value, [tuple(data._replace(labels=torch.tensor([1, 0])))]) == (0.0, 2)


def test_the_loss_is_that_of_its_docstring():
    network = small(noise=0.1).double()
    values, counts = torch.randn(2, 2, 2, dtype=torch.float64), torch.ones(2, 2, 2, dtype=torch.float64)
    data = StayBatch(torch.arange(2.0).double().expand(2, -1), values, counts, 0 * values, torch.tensor([0, 1]))
    module = LatentStayModule(network, classification_weight=3.0, kl_weight=0.5)
    step = module.step(network, tuple(data), "val")
    posterior = network.posterior(data.times[0], values, data.observed)
    error = ((network.decode(posterior.mean, data.times[0]) - values) / network.span).square().mean()
    entropy = torch.nn.functional.cross_entropy(network.head(posterior.mean), data.labels)
    wanted = error / 0.02 + 0.5 * posterior.divergence().mean() / 3 + 3 * entropy
    torch.testing.assert_close(step.loss, wanted / 4)
    assert step.metrics["interpolation_mse"] == pytest.approx(error.item())


SMALL = ["data.verify=false", "data.batch_size=20", "trainer.max_epochs=2", "trainer.enable_progress_bar=False"]
TINY = ["model.latent=3", "model.hidden=5", "model.width=4"]


@pytest.mark.parametrize("entry", ["latent_ode_physionet", "gru_physionet", "latent_ode_physionet_interpolation"])
def test_a_short_training_measures_and_draws_and_its_export_loads(entry, tmp_path):
    root = write_stays(write_stays(tmp_path), "b", count=20)
    size = ["model.width=4"] if entry == "gru_physionet" else TINY
    words = [f"model={entry}", f"data.root={root}", *SMALL, *size, "model.baseline=null", "trainer.log_every_n_steps=1"]
    finished = run(tmp_path / "run", *words)
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    test, found = metrics["test"], metrics["comparison"]["this entry"]
    network = deqzoo.load(finished.folder / "export")
    data = StayBatch(*next(iter(finished.data.test_dataloader())))
    drawn = {path.name for path in (finished.folder / "plots").iterdir()}
    assert drawn == ({"training.png"} if entry == "gru_physionet" else {"training.png", "stays.png"})
    if entry == "latent_ode_physionet_interpolation":
        assert test["n"] == 16
        assert found["interpolation_mse"] == pytest.approx(test["interpolation_mse"], rel=1e-3)
        assert found["measurement_mse"] == pytest.approx(test["measurement_mse"], rel=1e-3)
        assert "auc" not in test
        shown = data.times[0], data.values, data.observed
        assert torch.equal(network(*shown), network.predict(*shown))
        assert "e-3 over measurements" in INTERPOLATION_CHECK.rows(metrics["comparison"])[0][1]
        return
    assert test["n"] == 12
    assert found["auc"] == pytest.approx(test["auc"], abs=1e-5)
    assert found["n_b"] == 20
    assert auc(network, [tuple(data)])[0] == pytest.approx(test["auc"], abs=1e-5)
    assert metrics["steps"] == 4


def test_weights_of_another_draw_are_told(tmp_path):
    words = [f"data.root={write_stays(tmp_path)}", *SMALL, "model=gru_physionet", "model.width=4"]
    finished = run(tmp_path / "one", *words)
    with pytest.warns(UserWarning, match="trained on another draw of the stays"):
        run(tmp_path / "two", *words, "seed=1", "mode=test", f"ckpt={finished.folder}")


def test_interpolation_learns_no_classes(tmp_path):
    words = [f"data.root={write_stays(tmp_path)}", *SMALL, "data.sets=[a]", "model.classification_weight="]
    with pytest.raises(ConfigError, match="must be 0; kind latent_ode_stays is for the other case"):
        run(tmp_path / "run", "model=latent_ode_physionet_interpolation", *words[:-1], f"{words[-1]}1")
    with pytest.raises(ConfigError, match="must be positive; kind latent_ode_interpolation"):
        run(tmp_path / "run", "model=latent_ode_physionet", *words[:-1], f"{words[-1]}0")
    assert not any(name.startswith("head") for name in small(classes=[]).state_dict())


def test_the_card_says_where_the_baseline_is_better():
    ours, theirs = ({"auc": a, "auc_b": b, "n": 8, "n_b": 9, "note": ""} for a, b in ((0.8, 0.7), (0.7, 0.8)))
    assert verdict({"this entry": ours, "`other`": theirs}) == "`other` is better on set b, with these weights."
    assert "at least as good" in verdict({"this entry": ours, "`other`": ours})
    assert verdict({"this entry": ours}) == ""
    assert mortality_rows({"this entry": ours})[0][1].endswith("0.7000 on all 9 of set b, which trained none")
