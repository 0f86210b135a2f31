"""Classifiers of series with missing values: what they see, GRU-D's formulas, a short training, bad input."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.labelled_series import LabelledSeriesBatch
from deqzoo.errors import ConfigError
from deqzoo.models.ode.config import SeriesClassifierTraining
from deqzoo.models.ode.series_classifier_kind import verdict
from deqzoo.models.ode.series_classifier_module import classify
from deqzoo.models.ode.series_classifier_network import GRUDClassifier, NeuralCDEClassifier
from tests.data.test_series import fake_sktime
from tests.running import composed, run

__all__ = ["fake_sktime"]

SMALL = ["data.repeats=1", "trainer.max_epochs=1", "trainer.enable_progress_bar=False", "trainer.log_every_n_steps=1"]
NAMES = ("accuracy_dropped_30", "accuracy_dropped_50", "accuracy_dropped_70")


@pytest.fixture(params=["hermite", "natural", "linear", "gru_d"])
def network(request):
    torch.manual_seed(0)
    known = (2, [1.0, -1.0], [2.0, 0.5], ["a", "b", "c"])
    if request.param == "gru_d":
        return GRUDClassifier(*known, width=5)
    return NeuralCDEClassifier(*known, hidden=4, width=6, interpolation=request.param, solver="rk4")


@pytest.fixture
def seen():
    random = torch.Generator().manual_seed(0)
    values = torch.randn(3, 7, 2, generator=random)
    observed = torch.rand(values.shape, generator=random) < 0.6
    observed[:, 6, 0] = True
    return torch.tensor([0.0, 0.1, 0.3, 0.4, 0.8, 0.9, 1.0]), values, observed


def test_what_is_not_observed_makes_no_difference(network, seen):
    times, values, observed = seen
    other = torch.where(observed, values, 100.0)
    torch.testing.assert_close(network(times, other, observed), network(times, values, observed))
    changed = torch.where(observed, values + 1, values)
    assert (network(times, changed, observed) - network(times, values, observed)).abs().max() > 1e-4


def test_times_after_the_last_observation_make_no_difference(network, seen):
    times, values, observed = seen
    longer, zeros = torch.cat([times, torch.tensor([1.1, 1.2, 1.3])]), torch.zeros(3, 3, 2)
    found = network(longer, torch.cat([values, zeros], 1), torch.cat([observed, zeros.bool()], 1))
    # All pieces of a natural spline depend on all of its knots.
    near = 0.05 if getattr(network, "interpolation", None) == "natural" else 1e-5
    torch.testing.assert_close(found, network(times, values, observed), rtol=near, atol=near)


def test_gru_d_is_that_of_the_paper():
    torch.manual_seed(1)
    network = GRUDClassifier(1, [0.0], [1.0], ["a", "b"], width=3)
    with torch.no_grad():
        network.value_decay.copy_(torch.tensor([[2.0], [0.1]]))
    times, values = torch.tensor([0.0, 0.5, 2.0]), torch.tensor([[[1.5], [9.0], [-1.0]]])
    observed = torch.tensor([[[True], [False], [True]]])
    state = torch.zeros(1, 3)
    # Time since the last observation at each step, and the value that the cell reads there.
    decayed = 1.5 * torch.exp(torch.tensor(-(2.0 * 0.5 + 0.1))).item()
    for since, value, mask in ((0.0, 1.5, 1.0), (0.5, decayed, 0.0), (2.0, -1.0, 1.0)):
        decay = torch.exp(-torch.relu(network.state_decay(torch.tensor([[since]]))))
        state = network.cell(torch.tensor([[value, mask]]), decay * state)
    torch.testing.assert_close(network(times, values, observed), network.head(state))


def test_bad_input_has_an_error_that_names_the_mend(network, seen):
    times, values, observed = seen
    nothing = observed.clone()
    nothing[1] = False
    with pytest.raises(ValueError, match="series 1 has no observation: leave it out"):
        network(times, values, nothing)
    with pytest.raises(ValueError, match="increasing, common to all series"):
        network(times.flip(0), values, observed)
    with pytest.raises(ValueError, match="increasing, common to all series"):
        network(times[:5], values, observed)
    with pytest.raises(ValueError, match=r"must be \(B, T, 2\), got \(3, 7, 1\)"):
        network(times, values[..., :1], observed)
    with pytest.raises(ValueError, match=r"must be \(B, T, 2\)"):
        network(times, values, observed[:, :5])
    with pytest.raises(ValueError, match="series 0 has nan as an observed value"):
        network(times, torch.where(observed, torch.nan, values), observed)
    with pytest.raises(ValueError, match="inf as an observed value"):
        network(times, torch.where(observed, -torch.inf, values), observed)
    with pytest.raises(ValueError, match=r"as torch\.bool; got torch\.uint8"):
        network(times, values, observed.byte())
    for wrong in (torch.inf, torch.nan):
        with pytest.raises(ValueError, match="finite, increasing"):
            network(times.index_fill(0, torch.tensor([len(times) - 1]), wrong), values, observed)


def test_a_single_time_is_a_series_too(network):
    logits = network(torch.tensor([3.0]), torch.ones(2, 1, 2), torch.ones(2, 1, 2).bool())
    assert logits.isfinite().all()


def test_classify_leaves_out_what_comes_after_all_observations(seen):
    times, values, observed = seen
    network = GRUDClassifier(2, [0.0, 0.0], [1.0, 1.0], ["a", "b"], width=4)
    observed[:, 4:] = False
    data = LabelledSeriesBatch(times.expand(3, -1), values, torch.where(observed, 0.5, -1.0), torch.zeros(3).long())
    lengths = []
    network.register_forward_hook(lambda module, args, output: lengths.append(len(args[0])))
    torch.testing.assert_close(classify(network, data, data.shown(0.5)), network(times, values, observed))
    assert lengths == [4, 7]


@pytest.mark.usefixtures("fake_sktime")
@pytest.mark.parametrize("entry", ["ncde_vowels", "grud_vowels"])
def test_a_short_training_measures_and_draws_and_its_export_loads(entry, tmp_path):
    finished = run(tmp_path / "a", f"model={entry}", *SMALL, *["model.baseline=null"] * (entry == "ncde_vowels"))
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    test = metrics["test"]
    assert test["n"] == 370
    assert test["accuracy"] == pytest.approx(sum(test[name] for name in NAMES) / 3, abs=1e-5)
    assert metrics["steps"] == 3
    drawn = {path.name for path in (finished.folder / "plots").iterdir()}
    wanted = {"training.png", "accuracy_over_dropping.png"} | ({"paths.png"} if entry == "ncde_vowels" else set())
    assert drawn == wanted
    found = metrics["comparison"]["this entry"]["accuracy"]
    assert found["50"] == pytest.approx(test["accuracy_dropped_50"], abs=1e-5)
    network = deqzoo.load(finished.folder / "export")
    data = LabelledSeriesBatch(*next(iter(finished.data.test_dataloader())))
    right = classify(network, data, data.shown(0.3)).argmax(1) == data.labels
    assert right.float().mean().item() == pytest.approx(test["accuracy_dropped_30"], abs=1e-5)


@pytest.mark.usefixtures("fake_sktime")
def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.dropped=0\.5 are never shown: give data\.dropped=0\.3"):
        run(tmp_path, "model=grud_vowels", *SMALL, "data.dropped=0.5")
    with pytest.raises(ConfigError, match="interpolation=cubic: valid are hermite, linear, natural"):
        run(tmp_path, "model=ncde_vowels", *SMALL, "model.interpolation=cubic")
    with pytest.raises(ValueError, match="from least to largest"):
        SeriesClassifierTraining(dropped_fractions=[0.5, 0.3])
    assert composed("model=grud_vowels").model.width == 37


def test_the_card_says_where_the_baseline_is_better():
    ours, theirs = ({"accuracy": {"30": a, "70": b}} for a, b in ((0.9, 0.8), (0.85, 0.82)))
    assert verdict({"n": 3, "this entry": ours, "`other`": theirs}) == (
        "`other` is better at 70 % dropped, with these seeds."
    )
    assert "at least as good" in verdict({"n": 3, "this entry": ours, "`other`": ours})
    assert verdict({"n": 3, "this entry": ours}) == ""
