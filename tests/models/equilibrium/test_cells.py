"""Cells by name: one from outside of the package is trained, and what is wrong is told with what is valid."""

import pytest
import torch
from torch import nn

import deqzoo
from deqzoo.errors import ConfigError
from deqzoo.models import build_network
from deqzoo.nn import CELLS, PlainConvCell, make_cell
from tests.running import SMALL, composed, run

ENTRY = "model=deq_digits_unbounded"


class Damped(nn.Module):
    """A cell of a user's own, f(z, x) = x + strength tanh(w z)."""

    def __init__(self, channels: int, strength: float = 0.1) -> None:
        super().__init__()
        self.strength = strength
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, z, x):
        return x + self.strength * torch.tanh(self.weight * z)


def test_a_cell_from_outside_is_trained_exported_and_loaded_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setitem(CELLS, "damped", Damped)
    words = ["model.cell=damped", "model.cell_options.strength=0.3", "trainer.max_steps=1"]
    trained = run(tmp_path, ENTRY, *SMALL, *words)
    (stage,) = trained.module.network.equilibria
    assert isinstance(stage.cell, Damped)
    assert stage.cell.strength == 0.3
    assert (stage.cell.weight != 1).all()
    loaded = deqzoo.load(tmp_path / "export")
    assert torch.equal(loaded.equilibria[0].cell.weight, trained.module.trained_network.equilibria[0].cell.weight)


def test_each_cell_is_made_by_its_name():
    for name in CELLS:
        cell = make_cell(name, 8, groups=2)
        assert cell(torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 4, 4)).shape == (1, 8, 4, 4)
    assert isinstance(make_cell("plain", 8), PlainConvCell)


def test_a_cell_that_hands_on_what_it_is_given_takes_any_option(monkeypatch):
    monkeypatch.setitem(CELLS, "users", lambda channels, **options: PlainConvCell(channels, **options))
    assert make_cell("users", 8, groups=2).norm.num_groups == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model.cell=residul"], r"model\.cell=residul: unknown cell .* mean 'residual'\? Valid: plain, residual"),
        (["model.cell_options.depth=2"], r"model\.cell=residual: .*no option depth. Valid: expansion, groups, "),
        (["model.cell=plain", "model.cell_options.expansion=2"], r"'plain' has no option expansion. Valid: groups"),
        (["model.cell_options.groups=3"], r"model\.cell=residual: groups=3 must divide"),
        (["model.entry_groups=3"], r"model\.entry_groups=3 must divide"),
    ],
)
def test_what_is_wrong_with_a_cell_is_told(words, told):
    config = composed(ENTRY, *words)
    info = deqzoo.models.ImageInfo(1, ("a", "b"), (0.5,), (0.5,))
    with pytest.raises(ConfigError, match=told):
        build_network(config.model, info)
