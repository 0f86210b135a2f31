"""Sets of series: what is measured, what is shown, what is asked, and the order of the batches."""

import sys
import types

import numpy as np
import pytest
import torch

from deqzoo.data import pendulum, spirals, vowels
from deqzoo.data.series import SERIES_SETS, SeriesBatch, SeriesData
from deqzoo.data.series_set import MissingPackageError


@pytest.fixture
def fake_sktime(monkeypatch):
    """A module `sktime.datasets` with utterances of the published numbers and lengths."""

    class Utterance:
        def __init__(self, values):
            self.values = values

        def to_numpy(self):
            return self.values

    def load_japanese_vowels(part, return_type):
        assert return_type == "df-list"
        count = {"train": 270, "test": 370}[part]
        draw = np.random.default_rng(count)
        utterances = [Utterance(draw.standard_normal((7 + i % 23, 12))) for i in range(count)]
        return utterances, [str(1 + i // 30) if part == "train" else "9" for i in range(count)]

    module = types.ModuleType("sktime.datasets")
    module.load_japanese_vowels = load_japanese_vowels
    monkeypatch.setitem(sys.modules, "sktime", types.ModuleType("sktime"))
    monkeypatch.setitem(sys.modules, "sktime.datasets", module)


def batch_of(name, part="test", **options):
    data = SeriesData(name, **options)
    data.setup()
    loader = data.test_dataloader() if part == "test" else data.train_dataloader()
    return SeriesBatch(*next(iter(loader)))


def test_spirals_are_two_curves_with_noise():
    series = spirals.read_spirals()
    centre = np.where(np.arange(2000)[:, None] % 2 == 0, -5, 5)
    x, y = series.truth[..., 0] - centre, series.truth[..., 1]
    radius, angle = np.hypot(x, y), np.unwrap(np.arctan2(y, x), axis=1)
    clockwise = np.diff(angle, axis=1)[:, 0] < 0
    assert (clockwise == (np.arange(2000) % 2 == 0)).all()
    grows = np.diff(radius, axis=1)
    assert (grows[np.isfinite(grows)] > 0).all()
    turn = np.abs(np.diff(angle, axis=1))[np.isfinite(grows)]
    np.testing.assert_allclose(turn, series.times[1])
    assert np.isfinite(series.truth[:, :100]).all()
    noise = (series.values - series.truth)[:, :100]
    assert noise.std() == pytest.approx(0.1, rel=0.01)
    assert np.isnan(series.values[:, 100:]).all()
    np.testing.assert_array_equal(series.values, spirals.read_spirals().values)


def test_test_spirals_are_asked_everywhere_and_shown_the_window_in_random_order():
    batch = batch_of("spirals", eval_batch_size=50)
    assert batch.asked[:, :100].all()
    assert 0.8 < batch.asked[:, 100:].float().mean() < 1  # some windows end near the spiral's
    assert batch.measured[:, :100].all()
    assert not batch.measured[:, 100:].any()
    for share in (0.3, 0.5, 1.0):
        assert ((batch.rank < share).sum(1) == round(100 * share)).all()
    assert not torch.equal(batch.rank[0], batch.rank[1])
    assert torch.equal(batch.rank, batch_of("spirals", eval_batch_size=50).rank)


def test_pendulums_obey_their_law():
    series = pendulum.simulate_pendulums()
    angle, step = series.truth[..., 0], series.times[1]
    velocity = (angle[:, 2:] - angle[:, :-2]) / (2 * step)
    acceleration = (angle[:, 2:] - 2 * angle[:, 1:-1] + angle[:, :-2]) / step**2
    residual = acceleration + 9.81 * np.sin(angle[:, 1:-1]) + 0.2 * velocity
    assert np.abs(residual).max() < 0.02 * np.abs(acceleration).max()  # finite differences
    noise = (series.values - series.truth)[:, : series.window]
    assert noise.std() == pytest.approx(0.02 * series.truth[:, : series.window].std(), rel=0.03)
    assert SeriesData("pendulum").info.parameters == (9.81, 0.2)


def test_vowels_keep_one_value_in_five_and_ask_for_the_others(fake_sktime):
    series = vowels.read_vowels()
    assert {part: len(indices) for part, indices in series.parts.items()} == {"train": 225, "val": 45, "test": 370}
    assert np.bincount(series.parts["val"] // 30).tolist() == [5] * 9
    there, kept = np.isfinite(series.truth), np.isfinite(series.values)
    assert kept.sum() / there.sum() == pytest.approx(0.2, abs=0.01)
    assert not (kept & ~there).any()
    assert there.all(2).sum(1).tolist() == [7 + i % 23 for i in range(270)] + [7 + i % 23 for i in range(370)]
    batch = batch_of("japanese_vowels")
    assert not (batch.asked & batch.measured).any()
    assert torch.equal(batch.asked | batch.measured, torch.from_numpy(there[270:]))


def test_the_last_measured_time_is_that_of_any_series_and_channel():
    data = SeriesData("spirals", batch_size=8)
    data.setup()
    batch = SeriesBatch(*next(iter(data.train_dataloader())))
    measured = torch.zeros_like(batch.measured)
    for time in (0, 3, 40):
        measured[time % 2, time, 1] = True
        assert batch._replace(measured=measured).last_measured() == time


def test_set_of_a_missing_package_names_the_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "sktime", None)
    monkeypatch.setitem(sys.modules, "sktime.datasets", None)
    with pytest.raises(MissingPackageError, match=r"pip install sktime.*deqzoo\[series\]"):
        SeriesData("japanese_vowels").setup()


def test_epoch_of_several_passes_holds_each_series_as_often():
    data = SeriesData("pendulum", batch_size=16, repeats=3, seed=5)
    data.setup()
    loader = data.train_dataloader()
    passes = [torch.cat([index for index, *_ in pair]) for pair in zip(*[iter(loader)] * 2, strict=True)]
    assert len(passes) == 3
    assert all(order.sort().values.tolist() == list(range(32)) for order in passes)
    assert not torch.equal(passes[0], passes[1])


def test_the_seed_is_0_where_none_is_given():
    default, zero, one = (SeriesData("pendulum", batch_size=16, **seed) for seed in ({}, {"seed": 0}, {"seed": 1}))
    for data in (default, zero, one):
        data.setup()
    first, same, other = (next(iter(data.train_dataloader()))[0] for data in (default, zero, one))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_epoch_of_several_passes_resumes():
    whole, part, rest = (SeriesData("pendulum", batch_size=16, repeats=3) for _ in range(3))
    for data in (whole, part, rest):
        data.setup()
    expected = [batch[0] for batch in whole.train_dataloader()]
    batches = iter(part.train_dataloader())
    seen = [next(batches)[0] for _ in range(4)]
    rest.load_state_dict(part.state_dict())
    seen += [batch[0] for batch in rest.train_dataloader()]
    assert torch.equal(torch.stack(seen), torch.stack(expected))


def test_wrong_options_are_told():
    with pytest.raises(
        ValueError, match="no set of series 'spiral'; valid names are japanese_vowels, pendulum, spirals"
    ):
        SeriesData("spiral")
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        SeriesData("spirals", repeats=0)


def test_table_counts_what_there_is(fake_sktime):
    for name, spec in SERIES_SETS.items():
        parts = [str(len(indices)) for indices in spec.read().parts.values()]
        stated = spec.parts.replace(",", "").replace("the truth behind them", "32").split(" / ")
        assert parts == stated, name
