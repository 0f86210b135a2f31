"""Finding the parameters of pendulums: the horizon, the numbers that are told, and a short fit that gets there."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.series import SeriesBatch
from deqzoo.errors import ConfigError
from deqzoo.models import PendulumODE
from deqzoo.models.physics.pendulum_module import PendulumModule
from deqzoo.training import Run
from tests.running import composed, run

SMALL = ["trainer.enable_progress_bar=False", "trainer.log_every_n_steps=1", "data.repeats=3", "trainer.max_epochs=1"]


@pytest.mark.parametrize("entry", ["node_pendulum", "pinn_pendulum"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_run_tells_the_parameters(entry, tmp_path):
    finished = run(tmp_path, f"model={entry}", *SMALL)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"parameter_error", "gravity_over_length", "damping", "rmse", "rmse_beyond"} <= set(metrics["test"])
    physics = metrics["physics"]
    assert physics["damping"]["truth"] == 0.2
    worst = max(abs(found["error"]) for found in physics.values())
    assert metrics["test"]["parameter_error"] == pytest.approx(worst, rel=1e-4)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"fit.png", "phase_portrait.png", "parameters.png"}
    assert "## Are the parameters found?" in (tmp_path / "export" / "README.md").read_text()
    model = deqzoo.load(tmp_path / "export")
    times = torch.linspace(0, 10, 7)
    torch.testing.assert_close(model(times), finished.module.network(times).detach())


def test_horizon_grows_from_a_tenth_to_all():
    module = PendulumModule(PendulumODE(2), growth=0.5)

    class Trainer:
        estimated_stepping_batches, global_step = 100, 0

    module._trainer = Trainer()
    asked = []
    module.network.forward = lambda times: asked.append(len(times)) or torch.zeros(2, len(times))
    measured = torch.arange(300)[None, :, None].expand(2, -1, 1) < 200
    times = torch.arange(300.0).expand(2, -1)
    data = SeriesBatch(torch.arange(2), times, torch.zeros(2, 300, 1), measured, times, times, measured)
    for step in (0, 25, 50, 99):
        module._trainer.global_step = step
        module.fit_loss(module.network, data)
    assert asked == [20, 110, 200, 200]


def test_fit_finds_what_made_the_angles():
    """Two pendulums without noise, by plain gradient steps through the solver."""
    torch.manual_seed(0)
    truth = PendulumODE(2, gravity_over_length=9.81, damping=0.2)
    with torch.no_grad():
        truth.initial.copy_(torch.tensor([[1.0, 0.0], [-0.5, 1.0]]))
    times = torch.linspace(0, 1.5, 30)
    angles = truth(times).detach()
    model = PendulumODE(2, gravity_over_length=7.0, damping=0.4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (model(times) - angles).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert model.physics.gravity_over_length.item() == pytest.approx(9.81, rel=0.01)
    assert model.physics.damping.item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("override", "told"),
    [("data=spirals", "needs data=pendulum"), ("model.damping=0", "model.damping must be positive, got 0")],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=node_pendulum", override), tmp_path)
