"""Folders that older versions wrote are loaded, and give what they gave."""

import json
from pathlib import Path

import pytest
import torch

import deqzoo
from deqzoo.zoo.conversions import CONVERSIONS, FORMAT, convert
from deqzoo.zoo.folder import read_config, read_folder, read_golden

HERE = Path(__file__).parent
OLD = sorted(HERE.glob("format_*"))  # format_VERSION_KIND, made by the versions that wrote them, and never anew


def test_each_older_format_has_a_folder():
    versions = {int(folder.name.split("_")[1]) for folder in OLD}
    assert versions == set(CONVERSIONS) == set(range(1, FORMAT))
    for folder in OLD:
        config = json.loads((folder / "config.json").read_text())
        assert folder.name == f"format_{config['format']}_{config['model']['kind']}"


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
    model = read_config(folder)["model"]
    since = {"train_only": []}  # settings that came later, as they are by default
    since |= {"consistency_weight": 0.0} if model["kind"] == "latent_ode" else {}
    assert read_config(written)["model"] == model | since


def test_format_1_names_the_symmetry_otherwise():
    model = read_folder(HERE / "format_1_contractive_classifier").config["model"]
    assert model["flip_equivariant"]
    assert not {"mirror", "unconverged_at_most"} & set(model)


def test_format_2_has_a_cells_options_among_the_others():
    model = read_folder(HERE / "format_2_deq_classifier").config["model"]
    assert model["cell_options"] == {"expansion": 2.0, "groups": 2, "dropout": 0.1, "weight_norm": True}
    assert model["entry_groups"] == 2


def test_format_2_names_the_fractions_of_a_series_otherwise():
    model = read_folder(HERE / "format_2_latent_ode").config["model"]
    assert (model["min_observed_fraction"], model["observed_fractions"]) == (0.3, [0.5, 1.0])


def test_what_is_of_today_stays_as_it_is():
    config, weights = {"format": FORMAT, "model": {"kind": "flow"}}, {"w": torch.ones(2)}
    assert convert(config, weights) == (config, weights)


def test_format_2_calls_the_adjoint_a_gradient():
    folder = HERE / "format_2_deq_classifier"
    assert {"gradient", "gradient_options"} <= set(json.loads((folder / "config.json").read_text())["model"])
    model = read_folder(folder).config["model"]
    assert model["adjoint"] == "implicit"
    assert not {"gradient", "gradient_options"} & set(model)
