"""The registry, the recipes in data/ and the generated table agree."""

import pytest
from omegaconf import OmegaConf

from deqzoo.data import DATASETS, ImageDataConfig, data_table
from deqzoo.paths import zoo_path


def test_each_set_has_a_recipe_and_each_recipe_a_set():
    assert sorted(path.stem for path in zoo_path("data").glob("*.yaml")) == sorted(DATASETS)


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


def test_table_has_a_row_for_each_set():
    rows = data_table().splitlines()
    assert [row.split("`")[1] for row in rows[2:]] == sorted(DATASETS)
    assert "| 1,257 / 180 / 360 |" in data_table()
    assert len({row.count("|") for row in rows}) == 1
