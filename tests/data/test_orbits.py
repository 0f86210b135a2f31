"""Orbits: the energy that they keep, the windows that are cut from them, and settings that cannot be."""

import numpy as np
import pytest
import torch

from deqzoo.data.mechanics import AXES, ECCENTRICITIES, MECHANICS
from deqzoo.data.orbits import LENGTH, OrbitData, counts
from deqzoo.errors import ConfigError
from tests.running import composed


def loaded(name, **options):
    data = OrbitData(name, batch_size=50, **options)
    data.setup()
    return data


@pytest.mark.parametrize("name", MECHANICS)
def test_simulated_orbits_keep_their_energy(name):
    data = loaded(name)
    energy = data.system.energy(torch.tensor(data.orbits))
    torch.testing.assert_close(energy, energy[:, :1].expand_as(energy), rtol=1e-8, atol=0)
    slope = np.gradient(data.orbits[:, :, 0], data.options.spacing, axis=1)[:, 25]
    assert np.abs(slope - data.orbits[:, 25, data.system.dim]).max() < 0.1  # dq/dt = p, up to h^2 / 6 d^3q/dt^3


def test_energies_are_those_of_the_stated_orbits():
    energy = MECHANICS["free_pendulum"].energy(torch.tensor(loaded("free_pendulum").orbits))[:, 0]
    assert 1 - np.cos(np.pi / 4) <= energy.min() <= energy.max() <= 1.5
    two = loaded("two_body")
    energy = MECHANICS["two_body"].energy(torch.tensor(two.orbits))[:, 0]
    assert -1 / (2 * AXES[0]) <= energy.min() <= energy.max() <= -1 / (2 * AXES[1])  # H = -1 / (2 a)
    distance = np.linalg.norm(two.orbits[..., :2] - two.orbits[..., 2:4], axis=-1)
    assert AXES[0] * (1 - ECCENTRICITIES[1]) <= distance.min() <= distance.max() <= AXES[1] * (1 + ECCENTRICITIES[1])
    assert np.abs(two.orbits[..., 4:6] + two.orbits[..., 6:]).max() < 1e-10


@pytest.mark.parametrize("name", MECHANICS)
def test_the_longest_period(name):
    system = MECHANICS[name]
    start = [[2 * np.pi / 3, 0]] if name == "free_pendulum" else [[0.6, 0, -0.6, 0, 0, 0.5 * 1.2**-0.5 * 2**0.5]]
    start = np.array(start if system.dim == 1 else [[*start[0], 0, -start[0][-1]]])
    back = system.simulate(start, np.array([0.0, system.period]))[:, 1]
    assert np.abs(back - start).max() < 5e-3


def test_windows_and_parts():
    data = loaded("two_body", window=4)
    assert {part: len(indices) for part, indices in data.parts.items()} == {
        "train": 160 * (LENGTH - 4),
        "val": 10,
        "test": 20,
    }
    assert counts(MECHANICS["free_pendulum"])["train"] == 40
    (windows,) = next(iter(data.test_dataloader()))
    expected = torch.tensor(data.orbits[-20:, :5], dtype=torch.float32)
    assert torch.equal(windows, expected)
    (batch,) = next(iter(data.make_loader("train", 50, train=True)))
    assert batch.shape == (50, 5, 8)
    assert torch.equal(loaded("two_body", window=4, seed=1).tensors[0], data.tensors[0])
    trained = data.tensors[0][data.parts["train"]][:, 0]
    assert (trained[:, None] - windows[None, :, 0]).abs().amax(2).min() > 1e-3  # unseen


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.spacing=0", "data.spacing must be positive"),
        ("data.window=0", "data.window must be at least 1"),
        ("data.name=three_body", "valid names are free_pendulum, two_body"),
        ("data.window=60", "less than the 51 states"),
    ],
)
def test_settings_that_cannot_be(override, told, tmp_path):
    from deqzoo.training import Run

    with pytest.raises(ConfigError, match=told):
        Run(composed("model=hnn_pendulum", override), tmp_path)
