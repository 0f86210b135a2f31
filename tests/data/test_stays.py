"""Stays in intensive care: the files' form, the grid, splits, scaling, bad input."""

import numpy as np
import pytest
import torch

from deqzoo.data.files import CorruptDataError, DataNotFoundError
from deqzoo.data.physionet2012 import CHANNELS, find_stays, read_stays
from deqzoo.data.stays import StayBatch, StayData, joined, rows
from tests.data.stay_files import HEAD, write_stays


def small(root, **options):
    return StayData("physionet2012", root=str(root), verify=False, download=False, **options)


@pytest.fixture
def folder(tmp_path):
    return find_stays(str(write_stays(tmp_path, count=3)), "a")


def test_a_stay_is_read_as_it_stands(folder):
    lines = ["00:00,RecordID,1001", "00:00,Age,54", "00:00,Height,-1", "00:00,Weight,-1"]
    lines += ["00:07,HR,73", "47:59,pH,7.4", "48:00,Temp,-1"]
    (folder / "set-a" / "1001.txt").write_text(HEAD + "\n".join(lines))
    stays = read_stays(folder, "a", verify=False)
    assert stays.record.tolist() == [1000, 1001, 1002]
    assert stays.died.tolist() == [1, 0, 0]
    mine = stays.stay == 1
    assert stays.minute[mine].tolist() == [0, 7, 2879, 2880]
    assert [CHANNELS[number] for number in stays.channel[mine]] == ["Age", "HR", "pH", "Temp"]
    assert stays.value[mine].tolist() == [54, 73, 7.4, -1]  # -1 means unknown of a descriptor alone


def test_an_archive_holds_the_same_as_what_was_unpacked(tmp_path, folder):
    packed = find_stays(str(write_stays(tmp_path / "packed", count=3, packed=True)), "a")
    for one, other in zip(read_stays(folder, "a", verify=False), read_stays(packed, "a", verify=False), strict=True):
        assert np.array_equal(one, other)
    archive = packed / "set-a.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(CorruptDataError, match=r"set-a\.tar\.gz is corrupt: .* Delete it and run again"):
        read_stays(packed, "a", verify=False)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("05:00,HR,80\n04:00,HR,80", r"line 3 \('04:00,HR,80'\): times must not go back"),
        ("48:01,HR,80", "nor beyond 48:00"),
        ("01:00,HR,nan", "values be finite"),
        ("01:00,Pulse,80", r"line 2 .*there is no parameter 'Pulse'; valid are Age, Gender, .*HR"),
        ("01:00,HR", "a line is HH:MM,Parameter,Value"),
        ("one,HR,80", "a line is HH:MM,Parameter,Value"),
        ("00:00,RecordID,1001\n00:00,Age,-1", r"1001\.txt: nothing is known of this stay; leave it out"),
    ],
)
def test_a_bad_line_is_named(folder, line, why):
    (folder / "set-a" / "1001.txt").write_text(f"{HEAD}{line}\n")
    with pytest.raises(CorruptDataError, match=why):
        read_stays(folder, "a", verify=False)


def test_other_faults_of_the_files(folder):
    with pytest.raises(
        CorruptDataError, match=r"4,000 stays with 554 deaths; found are 3 with 1\..*data\.verify=false"
    ):
        read_stays(folder, "a")
    (folder / "set-a" / "1002.txt").rename(folder / "set-a" / "notes.txt")
    with pytest.raises(CorruptDataError, match=r"named by its number, as 132539\.txt"):
        read_stays(folder, "a", verify=False)
    (folder / "set-a" / "notes.txt").unlink()
    with pytest.raises(CorruptDataError, match="set-a lacks the stay 1002: stays and outcomes must be of one set"):
        read_stays(folder, "a", verify=False)
    outcomes = folder / "Outcomes-a.txt"
    outcomes.write_text(outcomes.read_text().replace("1001,5,", "1001,"))
    with pytest.raises(CorruptDataError, match=r"Outcomes-a\.txt, line 3: six columns"):
        read_stays(folder, "a", verify=False)
    outcomes.write_text("RecordID\n")
    with pytest.raises(CorruptDataError, match="begins with 'RecordID'"):
        read_stays(folder, "a", verify=False)


def test_an_empty_file_is_told(folder):
    (folder / "set-a" / "1001.txt").write_text("")
    with pytest.raises(CorruptDataError, match=r"1001\.txt begins with '', not with 'Time,Parameter,Value'"):
        read_stays(folder, "a", verify=False)


def test_missing_files_have_an_error_that_names_the_ways_on(tmp_path):
    with pytest.raises(
        DataNotFoundError, match=r"(?s)set-a\.tar\.gz is not in .*challenge-2012/1\.0\.0/set-a\.tar\.gz"
    ):
        small(tmp_path).prepare_data()
    folder = write_stays(tmp_path, count=1) / "physionet2012"
    (folder / "Outcomes-a.txt").unlink()
    with pytest.raises(DataNotFoundError, match=r"Outcomes-a\.txt is not in"):
        small(tmp_path).prepare_data()


def test_the_grid_keeps_errors_of_single_measurements(tmp_path):
    data = small(write_stays(tmp_path), minutes=720)
    data.setup()
    batch = StayBatch(*data.tensors)
    assert batch.values.shape == (60, 5, 41)
    assert batch.times[0].tolist() == [0, 0.5, 1, 1.5, 2]
    stays, pulse = data.stays, CHANNELS.index("HR")
    mine = (stays.stay == 7) & (stays.channel == pulse)
    step = (stays.minute[mine] + 360) // 720
    error = (batch.counts * (batch.values - 77.0) ** 2 + batch.scatter)[7, :, pulse]
    low, high = data.info.low[pulse], data.info.high[pulse]
    wanted = [np.sum((np.clip(stays.value[mine], low, high)[step == number] - 77.0) ** 2) for number in range(5)]
    seen = batch.counts[7, :, pulse] > 0
    assert seen.any()
    torch.testing.assert_close(error[seen], torch.tensor(wanted, dtype=torch.float32)[seen], rtol=1e-4, atol=1e-3)
    assert batch.counts.sum() == len(stays.value)
    assert torch.equal(batch.observed, batch.counts > 0)


def test_each_seed_has_test_stays_of_its_own(tmp_path):
    root = write_stays(tmp_path)
    first, again, other = (small(root, seed=seed) for seed in (0, 0, 1))
    for data in (first, again, other):
        data.setup()
    assert [len(first.parts[part]) for part in ("train", "val", "test")] == [43, 5, 12]
    assert torch.equal(first.parts["test"], again.parts["test"])
    assert not torch.equal(first.parts["test"], other.parts["test"])
    assert torch.cat(list(first.parts.values())).unique().numel() == 60
    assert (first.info.split, other.info.split) == (0, 1)


def test_scaling_is_of_the_training_stays_alone(tmp_path):
    root = write_stays(tmp_path)
    data = small(root)
    data.setup()
    info, batch, pulse = data.info, StayBatch(*data.tensors), CHANNELS.index("HR")
    trains = np.isin(data.stays.stay, data.parts["train"].numpy()) & (data.stays.channel == pulse)
    values = data.stays.value[trains]
    assert (info.low[pulse], info.high[pulse]) == (values.min(), values.max())
    tested = int(data.parts["test"][0])
    path = root / "physionet2012" / "set-a" / f"{1000 + tested}.txt"
    path.write_text(path.read_text() + "48:00,HR,9000\n")
    outlying = small(root)
    outlying.setup()
    assert outlying.info == info
    assert StayBatch(*outlying.tensors).values[tested, -1, pulse] == pytest.approx(info.high[pulse])
    absent = CHANNELS.index("Mg")
    assert (info.low[absent], info.high[absent], info.mean[absent], info.std[absent]) == (0, 1, 0, 1)
    constant = CHANNELS.index("ICUType")
    assert (info.low[constant], info.high[constant], info.std[constant]) == (3, 4, 1)
    assert batch.labels.sum() == 15


def test_two_sets_are_joined(tmp_path):
    write_stays(write_stays(tmp_path), "b", count=20)
    data = small(tmp_path, sets=["a", "b"])
    data.setup()
    assert len(data.stays.record) == 80
    b = data.read("b")
    assert np.array_equal(data.stays.value[data.stays.stay >= 60], b.value)
    assert data.whole(b).values.shape == (20, 49, 41)
    assert joined([b]) is b


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="no set of stays 'mimic'; valid is physionet2012"):
        StayData("mimic")
    with pytest.raises(ValueError, match=r"data\.sets must be \[a\], \[b\] or \[a,b\]"):
        StayData("physionet2012", sets=["c"])
    with pytest.raises(ValueError, match=r"data\.minutes must divide 48 hours, got 7"):
        StayData("physionet2012", minutes=7)
    with pytest.raises(ValueError, match=r"data\.test_fraction must lie in \(0, 1\)"):
        StayData("physionet2012", test_fraction=1.0)


def test_row_of_the_table():
    assert set(rows()) == {"physionet2012"}
