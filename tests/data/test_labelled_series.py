"""Sets of labelled series: what is dropped, who sees what, statistics, bad settings."""

import sys

import pytest
import torch

from deqzoo.data.labelled_series import LABELLED_SERIES_SETS, LabelledSeriesBatch, LabelledSeriesData, rows
from deqzoo.data.series_set import MissingPackageError
from tests.data.test_series import fake_sktime

__all__ = ["fake_sktime"]


def whole(**options):
    data = LabelledSeriesData("vowel_speakers", eval_batch_size=1000, **options)
    data.setup()
    return data, LabelledSeriesBatch(*next(iter(data.test_dataloader())))


@pytest.mark.usefixtures("fake_sktime")
def test_a_fraction_of_the_values_of_each_series_is_dropped_the_same_always():
    data, batch = whole()
    assert batch.values.shape == (370, 29, 12)
    assert torch.equal(batch.times[0], torch.arange(29) / 10)
    measured = 12 * (7 + torch.arange(370) % 23)
    for dropped in (0.3, 0.5, 0.7):
        shown = batch.shown(dropped)
        torch.testing.assert_close(shown.sum((1, 2)) / measured, torch.full((370,), 1 - dropped), atol=0.02, rtol=0)
        assert not (shown & ~batch.shown(dropped - 0.1)).any()
    assert torch.equal(batch.rank, whole()[1].rank)
    assert not torch.equal(batch.rank[0], batch.rank[23])
    assert [len(data.parts[part]) for part in ("train", "val", "test")] == [225, 45, 370]
    labels = batch.labels.unique()
    assert labels.tolist() == [8]


@pytest.mark.usefixtures("fake_sktime")
def test_what_is_dropped_is_not_in_the_batches():
    _, batch = whole(dropped=0.5)
    assert torch.equal(batch.shown(0.0), batch.shown(0.5))
    assert not batch.values[~batch.shown(0.0)].any()
    assert (batch.values[batch.shown(0.0)] != 0).all()


@pytest.mark.usefixtures("fake_sktime")
def test_statistics_are_those_of_the_training_values_that_are_shown():
    data, _ = whole(dropped=0.5)
    train = LabelledSeriesBatch(*(part[data.parts["train"]] for part in data.tensors))
    seen = train.values[..., 3][train.shown(0.5)[..., 3]]
    assert data.info.mean[3] == pytest.approx(seen.mean().item(), abs=1e-4)
    assert data.info.std[3] == pytest.approx(seen.std(correction=0).item(), abs=1e-4)
    assert (data.info.channels, len(data.info.classes), data.info.dropped) == (12, 9, 0.5)
    assert train.labels.bincount().tolist() == [25] * 9


@pytest.mark.usefixtures("fake_sktime")
def test_an_epoch_is_several_passes():
    data = LabelledSeriesData("vowel_speakers", batch_size=75, repeats=4)
    data.setup()
    assert len(data.train_dataloader()) == 12


def test_the_published_utterances(monkeypatch):
    pytest.importorskip("sktime")
    _, batch = whole()
    counts = batch.labels.bincount()
    assert counts.tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]


def test_errors_name_the_mend(monkeypatch):
    with pytest.raises(ValueError, match="no set of labelled series 'vowels'; valid names are vowel_speakers"):
        LabelledSeriesData("vowels")
    with pytest.raises(ValueError, match=r"data\.dropped must lie in \[0, 1\), got 1"):
        LabelledSeriesData("vowel_speakers", dropped=1)
    monkeypatch.setitem(sys.modules, "sktime", None)
    monkeypatch.setitem(sys.modules, "sktime.datasets", None)
    with pytest.raises(MissingPackageError, match=r"data=vowel_speakers .*pip install 'deqzoo\[series\]'"):
        LabelledSeriesData("vowel_speakers").setup()


def test_rows_of_the_table():
    assert set(rows()) == set(LABELLED_SERIES_SETS)
