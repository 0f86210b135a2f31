"""Continuous flows in the pipeline: both objectives, what is measured against the truth, the tolerance of training."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.densities import DENSITIES
from deqzoo.errors import ConfigError
from deqzoo.models.flow import kind as flow
from deqzoo.models.flow.module import FlowModule, training_tolerance
from deqzoo.nn import ContinuousFlow, squash_mlp
from deqzoo.paths import names
from deqzoo.training import Run
from tests.running import composed, run

SMALL = [
    "trainer.enable_progress_bar=False",
    "trainer.log_every_n_steps=1",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "model.hidden=[8]",
    "data.batch_size=32",
    "data.train_size=200",
    "data.val_size=50",
    "data.test_size=100",
]
FLOWS = [name for name in names("models") if name.removeprefix("cnf_").removesuffix("_fm") in DENSITIES]


def test_each_density_has_both_entries():
    assert sorted(FLOWS) == sorted(f"cnf_{name}{way}" for name in DENSITIES for way in ("", "_fm"))


@pytest.fixture
def coarse(monkeypatch):
    """Small pictures."""
    monkeypatch.setattr(flow, "GRID", 60)
    monkeypatch.setattr(flow, "FRAMES", 4)


@pytest.mark.parametrize("entry", ["cnf_8gaussians", "cnf_moons_fm"])
@pytest.mark.usefixtures("coarse")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_run_measures_against_the_truth(entry, tmp_path):
    finished = run(tmp_path, f"model={entry}", *SMALL)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    test, check = metrics["test"], metrics["density_check"]
    assert test["n"] == check["n"] == 100
    assert test["kl_density"] == pytest.approx(check["mean"], abs=1e-4)
    assert check["standard_error"] > 0
    assert check["integral"] == pytest.approx(1, abs=0.01)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "density.png", "flow.png", "flow.gif", "training.png"
    }  # fmt: skip
    card = (tmp_path / "export" / "README.md").read_text()
    assert "## Is it the true density?" in card
    assert ("flow matching" in card) == entry.endswith("_fm")
    history = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert ("train/nfe" in history) != entry.endswith("_fm")
    model = deqzoo.load(tmp_path / "export")
    x = torch.randn(5, 2)
    torch.testing.assert_close(model(x), finished.module.network(x).detach())
    assert model.sample((3,)).shape == (3, 2)


@pytest.mark.parametrize("objective", ["likelihood", "flow_matching"])
def test_every_parameter_gets_a_gradient(objective):
    network = ContinuousFlow(squash_mlp(2, (8, 8)), (2,))
    module = FlowModule(network, objective=objective, train_tol=1e-3)
    module.step(network, (torch.randn(16, 2),), "train").loss.backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in network.parameters())
    assert (network.flow.ode.solution is None) == (objective == "flow_matching")


def test_tolerance_of_training_is_its_own():
    network = ContinuousFlow(squash_mlp(2, (8,)), (2,))
    own = network.flow.ode.solver
    with training_tolerance(network, 1e-2):
        assert network.flow.ode.solver.rtol == network.flow.ode.solver.atol == 1e-2
    assert network.flow.ode.solver is own
    with training_tolerance(network, None):
        assert network.flow.ode.solver is own


def test_penalties_join_the_loss():
    network = ContinuousFlow(squash_mlp(2, (8,)), (2,), penalties=["kinetic", "jacobian"])
    module = FlowModule(network, kinetic_penalty=0.1, jacobian_penalty=0.2)
    module.step(network, (torch.randn(8, 2),), "train")
    penalties = module.penalties()
    assert {name: factor for name, (factor, _) in penalties.items()} == {"kinetic": 0.1, "jacobian": 0.2}
    assert all(value.requires_grad and value > 0 for _, value in penalties.values())


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.objective=gan", "objective=gan: valid are likelihood, flow_matching"),
        ("model.coupling=ot", "coupling=ot: valid are independent, optimal_transport"),
        ("model.activation=relu", "model.activation=relu is unknown; valid are silu, softplus, tanh"),
        ("model.divergence=none", "model.divergence=none is unknown; valid are exact, gaussian, rademacher"),
        ("data=spheres", "needs points"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=cnf_8gaussians", override), tmp_path)
