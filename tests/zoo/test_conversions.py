"""Folders that older versions wrote are loaded, and give what they gave."""

import json
from pathlib import Path

import pytest
import torch

import deqzoo
from deqzoo.zoo.conversions import CONVERSIONS, FORMAT, convert
from deqzoo.zoo.folder import read_config, read_folder, read_golden

OLD = sorted(Path(__file__).parent.glob("format_*"))  # made by the versions that wrote them, and never anew


def test_each_older_format_has_a_folder():
    assert [folder.name for folder in OLD] == [f"format_{version}" for version in range(1, FORMAT)]
    assert set(CONVERSIONS) == set(range(1, FORMAT))
    for version, folder in enumerate(OLD, start=1):
        assert json.loads((folder / "config.json").read_text())["format"] == version


@pytest.mark.parametrize("folder", OLD, ids=lambda folder: folder.name)
def test_an_older_folder_gives_what_it_gave(folder):
    inputs, output = read_golden(folder)
    assert output.std(dim=0).min() > 1e-2  # the samples differ
    torch.testing.assert_close(deqzoo.load(folder)(**inputs), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("folder", OLD, ids=lambda folder: folder.name)
def test_an_older_folder_is_written_anew_in_the_format_of_today(folder, tmp_path):
    inputs, output = read_golden(folder)
    written = deqzoo.export(deqzoo.load(folder), tmp_path / "new", {}, inputs=inputs)
    assert json.loads((written / "config.json").read_text())["format"] == FORMAT
    torch.testing.assert_close(deqzoo.load(written)(**inputs), output, rtol=1e-4, atol=1e-5)
    assert read_config(written)["model"] == read_config(folder)["model"]


def test_format_1_names_the_symmetry_otherwise():
    model = read_folder(Path(__file__).parent / "format_1").config["model"]
    assert model["flip_equivariant"]
    assert not {"mirror", "unconverged_at_most"} & set(model)


def test_what_is_of_today_stays_as_it_is():
    config, weights = {"format": FORMAT, "model": {"kind": "flow"}}, {"w": torch.ones(2)}
    assert convert(config, weights) == (config, weights)
