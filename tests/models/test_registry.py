"""A kind from outside of the package, registered by one line, is built, exported and loaded as the others."""

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import nn

import deqzoo
from deqzoo.config import model_config
from deqzoo.data import DATASETS
from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models import Classifier, build_network
from deqzoo.models.common.config import ClassifierTraining
from deqzoo.models.common.images import image_example
from deqzoo.models.common.kind import EQUILIBRIA, Kind
from deqzoo.models.registry import KINDS, KindPlace

DIGITS = DATASETS["digits"]
INFO = ImageInfo(1, DIGITS.classes, DIGITS.mean, DIGITS.std, size=(8, 8))


@dataclass
class LinearConfig(ClassifierTraining):
    """Settings of a kind of a user's own."""

    kind: str = "users_linear"
    scale: float = 1.0


class Linear(nn.Module):
    """Logits that are linear in the image."""

    def __init__(self, info: ImageInfo, scale: float) -> None:
        super().__init__()
        self.classes, self.scale = info.classes, scale
        self.linear = nn.Linear(64, len(info.classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * self.linear(images.flatten(1))


class LinearKind(Kind):
    """A kind of a user's own."""

    family, info, metric, takes = EQUILIBRIA, ImageInfo, "accuracy", "raw images in [0, 1] -> logits"

    def network(self, settings, info):
        return Linear(info, settings.scale)

    def module(self, network, settings):
        return Classifier.of(network, settings)

    def example(self, info, batch=None):
        return image_example(info, batch)


@pytest.fixture
def registered(monkeypatch):
    """The kind in the table, from a module of another package."""
    outside = ModuleType("users_package")
    outside.LinearConfig, outside.KIND = LinearConfig, LinearKind()
    monkeypatch.setitem(sys.modules, "users_package", outside)
    monkeypatch.setitem(KINDS, "users_linear", KindPlace("users_package:LinearConfig", "users_package:KIND"))


def test_a_kind_from_outside_is_exported_and_loaded(registered, tmp_path):
    settings = model_config({"kind": "users_linear", "scale": 2.0}, "a test")
    network = build_network(settings, INFO)
    images = torch.rand(3, 1, 8, 8)
    deqzoo.export(network, tmp_path / "mine", {})
    assert torch.equal(deqzoo.load(tmp_path / "mine")(images), network.eval()(images))


def test_its_settings_are_checked(registered):
    with pytest.raises(ConfigError, match=r"there is no setting 'scael'; valid are .*scale"):
        model_config({"kind": "users_linear", "scael": 2.0}, "a test")


def test_without_its_line_it_is_unknown():
    with pytest.raises(ConfigError, match=r"kind is 'users_linear'; valid are .*deq_classifier"):
        model_config({"kind": "users_linear"}, "a test")
