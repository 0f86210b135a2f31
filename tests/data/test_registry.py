"""The registry, the recipes in data/ and the generated table agree."""

import pytest
from omegaconf import OmegaConf

from deqzoo.data import DATASETS, ImageDataConfig, data_table
from deqzoo.data.kinds import DATA_KINDS, data_settings_of, make_data
from deqzoo.paths import names, zoo_path
from tests.data.stay_files import write_stays
from tests.data.test_image_folder import write_images
from tests.data.test_series import fake_sktime

__all__ = ["fake_sktime"]


def test_each_image_set_has_a_recipe():
    assert set(DATASETS) <= set(names("data"))


def test_each_recipe_has_a_row_in_the_table():
    rows = data_table().splitlines()
    assert [row.split("`")[1] for row in rows[2:]] == names("data")
    assert "| 1,257 / 180 / 360 |" in data_table()
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize("kind", sorted(DATA_KINDS))
@pytest.mark.usefixtures("fake_sktime")
def test_each_kind_of_data_has_its_module(kind, tmp_path):
    settings = data_settings_of(kind)()
    assert settings.kind == kind
    if kind == "image_folder":
        settings.root = str(write_images(tmp_path, {"": 5}))
    if kind == "stays":
        settings.root, settings.verify = str(write_stays(tmp_path)), False
    assert make_data(settings, seed=3).info.items


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_recipe_fits_its_dataclass(name):
    recipe = OmegaConf.load(zoo_path("data") / f"{name}.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ImageDataConfig), recipe))
    assert isinstance(config, ImageDataConfig)
    assert config.name == name


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_description_is_consistent(name):
    spec = DATASETS[name]
    assert len(spec.mean) == len(spec.std) == spec.shape[0]
    assert len(set(spec.classes)) == len(spec.classes)
    assert bool(spec.files) == bool(spec.archives) == bool(spec.folder) == bool(spec.megabytes)
