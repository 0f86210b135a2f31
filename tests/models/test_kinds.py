"""The table of kinds: each has its settings, answers the pipeline's questions, and takes the data of its recipes."""

import pytest
from omegaconf import OmegaConf

from deqzoo.data.info import DataInfo
from deqzoo.data.kinds import make_data
from deqzoo.data.series_set import MissingPackageError
from deqzoo.models.common.kind import Kind
from deqzoo.models.common.metrics import METRICS, result
from deqzoo.models.registry import KINDS, kind_of, settings_of
from deqzoo.paths import names
from tests.data.stay_files import write_stays
from tests.running import composed


def test_each_kind_of_settings_has_its_kind():
    for name in KINDS:
        assert settings_of(name)().kind == name


@pytest.mark.parametrize("name", sorted(KINDS))
def test_kind_answers(name):
    kind = kind_of(name)
    assert isinstance(kind, Kind)
    assert kind.metric in METRICS
    assert issubclass(kind.info, DataInfo)
    assert kind.takes


@pytest.mark.parametrize("entry", names("models"))
def test_data_of_a_recipe_fit_its_kind(entry, tmp_path):
    config = composed(f"model={entry}")
    if config.data.name == "physionet2012":  # whose statistics are those of the files
        config.data.root, config.data.verify = str(write_stays(write_stays(tmp_path), "b")), False
    kind = kind_of(config.model.kind)
    try:
        info = make_data(OmegaConf.to_object(config.data), seed=0).info
    except MissingPackageError as error:  # of an optional data set
        pytest.skip(str(error))
    assert isinstance(info, kind.info)


def test_numbers_are_written_by_their_metric():
    assert METRICS["failed"].show(0.0123) == "1.2 %"
    assert METRICS["nfe"].show(26) == "26.0"
    seeds = {"mean": 0.98, "standard_deviation": 0.004, "seeds": [0, 1]}
    assert result("accuracy", {"test": {"accuracy": 0.985}, "seed": 0, "seeds": seeds}) == (
        "98.50 % (seed 0; 98.00 ± 0.40 over 2 seeds)"
    )
