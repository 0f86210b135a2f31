"""Laws of motion from orbits: the networks, what is built into them, the energy that is followed, a short training."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.info import OrbitInfo
from deqzoo.data.mechanics import MECHANICS
from deqzoo.errors import ConfigError
from deqzoo.implicit import RK4, Leapfrog
from deqzoo.models import HamiltonianOrbits, PlainOrbits
from deqzoo.models.physics import energy
from deqzoo.models.physics.energy import LARGEST, energy_rows, follow
from deqzoo.models.physics.orbit_network import LearnedEnergy, PlainField
from deqzoo.nn import Hamiltonian
from deqzoo.training import Run
from tests.running import composed, run

SMALL = ["trainer.enable_progress_bar=False", "trainer.log_every_n_steps=1", "data.repeats=1", "trainer.max_epochs=1"]
SMALL += ["trainer.limit_train_batches=3", "model.periods=2", "data.window=2", "model.hidden=8"]


def states(dim, n=5, dtype=torch.float64):
    return torch.randn(n, 2 * dim, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("bodies", "dim"), [(1, 1), (2, 4)])
def test_the_closed_form_is_the_gradient_of_the_energy(bodies, dim):
    torch.manual_seed(0)
    law, (q, p) = LearnedEnergy(bodies, 8).double(), states(dim).chunk(2, 1)
    expected = Hamiltonian.forward(law, torch.tensor(0.0), (q, p))
    torch.testing.assert_close(law(torch.tensor(0.0), (q, p)), expected)
    assert law.energy(q, p).shape == (5,)


def turned(y, angle=0.7, mirror=True):
    cos, sin = torch.tensor(angle).cos(), torch.tensor(angle).sin()
    turn = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]).to(y)
    turn = turn @ torch.diag(torch.tensor([1.0, -1.0]).to(y)) if mirror else turn
    return (y.unflatten(1, (4, 2)) @ turn.T).flatten(1)


@pytest.mark.parametrize("law", [lambda: LearnedEnergy(2, 8), lambda: PlainField(2, 8)])
def test_symmetries_of_two_bodies(law):
    """Both laws turn with the plane, keep the total momentum, and do not ask where the bodies are."""
    torch.manual_seed(0)
    law, y = law().double(), states(4)

    def field(y):
        if isinstance(law, PlainField):
            return law(torch.tensor(0.0), y)
        return torch.cat(law(torch.tensor(0.0), y.chunk(2, 1)), 1)

    torch.testing.assert_close(field(turned(y)), turned(field(y)))
    force = field(y)[:, 4:]
    torch.testing.assert_close(force[:, :2], -force[:, 2:])
    place = torch.tensor([1.0, -2.0, 1.0, -2.0, 0, 0, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(field(y + place)[:, 4:], force)


def test_sizes_of_entry_and_baseline_agree_within_two_per_cent():
    for name, dim, hidden in (("free_pendulum", 1, 45), ("two_body", 4, 44)):
        sizes = [
            sum(p.numel() for p in network.parameters())
            for network in (HamiltonianOrbits(name, dim, hidden=32), PlainOrbits(name, dim, hidden=hidden))
        ]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


class True_(torch.nn.Module):
    """The pendulum as it is, by a solver."""

    def __init__(self, solver):
        super().__init__()
        self.ode = deqzoo.nn.HamiltonianODE(lambda t, y: (y[1], -y[0].sin()), solver=solver)

    def forward(self, states, times):
        return self.ode(states, times).transpose(0, 1)


INFO = OrbitInfo("free_pendulum", 1, 0.4)
STARTS = torch.tensor([[1.0, 0.0], [2.0, 0.1]])


def test_the_true_energy_is_followed(monkeypatch):
    monkeypatch.setattr(energy, "AT_ONCE", 2)
    fine, path = follow(True_(Leapfrog(0.1)), INFO, STARTS, 3)
    coarse, _ = follow(True_(Leapfrog(0.2)), INFO, STARTS, 3)
    assert fine.shape == (3, 2)
    assert path.shape == (2, 22 + 1, 2)  # the last period
    assert 0 < fine.max() < 0.01
    assert 3 < coarse.max() / fine.max() < 5  # of second order
    grown, _ = follow(True_(RK4(0.8)), INFO, STARTS, 3)
    assert (grown[1:, 0] > grown[:-1, 0]).all()


def test_an_answer_is_kept_while_the_weights_stay():
    torch.manual_seed(0)
    network = HamiltonianOrbits("free_pendulum", 1, hidden=4, solver=Leapfrog(0.2))
    first, _ = follow(network, INFO, STARTS, 1)
    assert follow(network, INFO, STARTS, 1)[0] is first
    assert follow(network, INFO, STARTS, 2)[0].shape == (2, 2)
    with torch.no_grad():
        network.ode.dynamics.perceptrons.weights[0].mul_(1.5)
    assert not torch.equal(follow(network, INFO, STARTS, 1)[0], first)


def test_a_path_that_is_lost_counts_as_the_largest_error():
    network = True_(Leapfrog(0.2))
    network.ode.dynamics = lambda t, y: (y[1], torch.where(y[0] > 1.5, torch.nan, -y[0].sin()))
    network.ode.on_failure = "ignore"
    errors, _ = follow(network, INFO, STARTS, 2)
    assert (errors[:, 1] == LARGEST).all()
    assert errors[:, 0].max() < 0.1


def test_rows_of_the_card():
    found = {"periods": {"1": {"worst": 0.01, "median": 0.005}, "1000": {"worst": 0.02, "median": 0.01}}}
    check = {**found, "starts": 20, "calls": 10.0}
    other = {"1": {"worst": 0.04, "median": 0.02}, "1000": {"worst": 3.0, "median": 1.0}}
    baseline = {"entry": "other", "periods": other, "calls": 10.0, "parameters": 2297, "steps": 10, "time": 1.0}
    rows = energy_rows({**check, "baseline": baseline})
    assert rows[1][:2] == (
        "largest error of the true energy over 1,000 periods, 20 unseen starts",
        "2.00% (median 1.00%); `other`: 300.00% (median 100.00%)",
    )
    assert rows[2][1:] == ("150", ">= 100")
    assert len(energy_rows(check)) == 2


@pytest.mark.parametrize("entry", ["hnn_pendulum", "node_two_body"])
def test_a_short_run(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "AT_ONCE", 1)
    finished = run(tmp_path, f"model={entry}", *SMALL)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test"]["n"] == 20
    assert 0 < metrics["test"]["energy_error_1"] <= metrics["test"]["energy_error"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"energy.png", "orbits.png", "training.png"}
    card = (tmp_path / "export" / "README.md").read_text()
    if entry.startswith("hnn"):
        worst = metrics["energy_check"]["periods"]["2"]["worst"]
        assert worst == pytest.approx(metrics["test"]["energy_error"], rel=1e-4)
        assert "## Is the energy kept?" in card
        assert "symplectic" in card
    model = deqzoo.load(tmp_path / "export")
    start = states(MECHANICS[finished.data.info.system].dim, dtype=torch.float32)
    times = torch.linspace(0, 1, 3)
    torch.testing.assert_close(model(start, times), finished.module.network(start, times).detach())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.periods=0"], "periods must be at least 1"),
        (["model.solver=leapfrogs"], "valid are"),
        (["model.solver=rk4", "model.adjoint=reversible"], None),
    ],
)
def test_settings_that_cannot_be(overrides, told, tmp_path):
    if told is None:
        with pytest.raises((ConfigError, ValueError), match="Leapfrog"):
            run(tmp_path, "model=hnn_pendulum", *SMALL, *overrides)
        return
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=hnn_pendulum", *overrides), tmp_path)
