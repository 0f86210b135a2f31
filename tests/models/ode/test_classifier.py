"""ODE classifiers in the pipeline: trained, resumed, stopped by NaN, exported, loaded; and what they cannot do."""

import json

import pytest
import torch
from torch.nn import functional as F

import deqzoo
from deqzoo.config import load_run
from deqzoo.data.points import draw_spheres
from deqzoo.errors import ConfigError
from deqzoo.implicit import RK4, Tsit5
from deqzoo.models import Classifier, NonFiniteError, point_classifier
from deqzoo.models.ode.check import ode_check
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo import CheckpointError
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    "model=anode_spheres",
    "model.hidden=8",
    "model.augment=1",
    "data.train_size=250",
    "data.batch_size=50",
    "data.val_size=50",
    "data.test_size=60",
    "trainer.enable_progress_bar=False",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
]
RANDOM = ["model.jacobian_penalty=0.1", "model.ema_decay=0.5"]  # the noise of Hutchinson's estimate, and a state


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of ten steps."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqzoo.models.ode.classifier_kind.FRAMES", 4)
        return run(tmp_path_factory.mktemp("runs") / "a", *SMALL, *RANDOM)


def test_plain_ode_cannot_separate_the_spheres_and_an_augmented_one_does():
    """On a line no flow moves the ball out of the shell: a threshold is right on two thirds of the points at best.

    (The steps of a loose tolerance can jump across; so the trained ODE is solved to a tight one.)
    """
    points, labels = draw_spheres(300, 1, torch.Generator().manual_seed(0))
    accuracy = {}
    for augment in (0, 1):
        torch.manual_seed(0)
        loose = Tsit5(rtol=1e-2, atol=1e-2)
        network = point_classifier(1, ["inner", "outer"], hidden=16, activation="tanh", augment=augment, solver=loose)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
        for _ in range(60):
            loss = F.cross_entropy(network(points), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.ode.solver = Tsit5(rtol=1e-6, atol=1e-6)
        accuracy[augment] = (network(points).argmax(1) == labels).float().mean().item()
    assert 0.6 < accuracy[0] <= best_threshold(points[:, 0], labels) < 0.7
    assert accuracy[1] == 1


def best_threshold(points, labels):
    """Accuracy of the best rule "label 1 on one side of a point"."""
    ordered = labels[points.argsort()]
    ones_below = F.pad(ordered.cumsum(0), (1, 0))
    right = (torch.arange(len(points) + 1) - ones_below) + (ones_below[-1] - ones_below)  # 1 above the threshold
    return max(right.max(), (len(points) - right).max()).item() / len(points) + 1e-6


def test_run_folder_and_logs(finished):
    assert {path.name for path in (finished.folder / "plots").iterdir()} == {"training.png", "flow.png", "flow.gif"}
    columns = set().union(*read_history(finished.folder / "metrics.csv"))
    logged = {f"train/{name}" for name in ("nfe", "nfe_backward", "steps", "rejected", "failed", "kinetic", "jacobian")}
    assert logged | {"val/accuracy", "val/nfe", "val/failed"} <= columns
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["test"]["n"] == 60
    assert metrics["test"]["failed"] == 0
    assert metrics["test"]["nfe"] >= 7
    assert metrics["ode_check"]["n"] == 60
    assert "deq_check" not in metrics
    card = (finished.folder / "export" / "README.md").read_text()
    for words in (
        "60 test points of `spheres`",
        "points -> logits",
        "adjoint | discrete",
        "one step of Euler's method",
    ):
        assert words in card


def test_two_dimensional_state_has_a_phase_portrait(tmp_path, monkeypatch):
    monkeypatch.setattr("deqzoo.models.ode.classifier_kind.FRAMES", 4)
    plain = run(tmp_path, *SMALL, "model=node_spheres", "model.augment=0", "trainer.max_steps=2")
    assert (plain.folder / "plots" / "phase_portrait.png").is_file()


def test_export_loads_with_another_solver_tolerance_and_limit(finished):
    folder = finished.folder / "export"
    inputs, output = read_golden(folder)
    model = deqzoo.load(folder)
    assert model.classes == ("inner", "outer")
    torch.testing.assert_close(model(**inputs), output, rtol=1e-4, atol=1e-5)
    solver = deqzoo.load(folder, solver="dopri5", tol=1e-6, max_steps=77).ode.solver
    assert (type(solver).__name__, solver.rtol, solver.atol, solver.max_steps) == ("Dopri5", 1e-6, 1e-6, 77)
    assert deqzoo.load(folder, tol=1e-2).ode.solver.rtol == 1e-2
    assert deqzoo.load(folder, solver="rk4").ode.solver == RK4()  # which has no tolerance to take over
    torch.testing.assert_close(deqzoo.load(folder, tol=1e-6)(**inputs), output, rtol=0, atol=0.02)
    with pytest.raises(CheckpointError, match=r"model\.solver=rk4: .*rtol.*step_size"):
        deqzoo.load(folder, solver="rk4", tol=1e-3)
    with pytest.raises(CheckpointError, match=r"model\.solver=anderson: valid are bosh3, dopri5"):
        deqzoo.load(folder, solver="anderson")


def test_mode_test_repeats_the_number(finished, tmp_path):
    again = run(tmp_path, *SMALL, "mode=test", f"ckpt={finished.folder}")
    assert again.metrics["test"]["accuracy"] == finished.metrics["test"]["accuracy"]


def test_cut_off_run_resumes_to_the_same_parameters(finished, tmp_path, monkeypatch):
    def die(self, batch, batch_idx):
        if self.global_step == 7:
            raise OSError("killed")
        return step(self, batch, batch_idx)

    step = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", die)
    with pytest.raises(OSError, match="killed"):
        run(tmp_path, *SMALL, *RANDOM, "save_every_n_steps=3")
    monkeypatch.setattr(Classifier, "training_step", step)
    resumed = Run(load_run(tmp_path, [f"resume={tmp_path}"]), tmp_path)
    torch.rand(7)
    resumed.fit()
    expected = finished.module.state_dict()
    for name, value in resumed.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


def test_nan_stops_the_run_with_its_cause(tmp_path, monkeypatch):
    def poison(self, batch, batch_idx):
        points, labels = batch
        if self.global_step >= 6:
            points[3] = torch.nan
        return step(self, (points, labels), batch_idx)

    step = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", poison)
    with pytest.raises(NonFiniteError, match=r"epoch 3, batch 0 \(step 15\).*input: sample.*\[3\].*last.ckpt"):
        run(tmp_path, *SMALL, "trainer.max_epochs=4", "save_every_n_steps=5")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["skips"] == {"total": 9, "row": 9}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.solver=dopri6", "model.solver=dopri6: valid are bosh3, dopri5"),
        ("model.solver_options.tol=1e-3", "model.solver=tsit5: .*tol.*rtol"),
        ("model.solver_options.rtol=-1", "model.solver=tsit5: .*negative"),
        ("model.adjoint=exact", "model.adjoint=exact: valid are backsolve, direct, discrete"),
        ("model.adjoint_options.checkpoint=3", "model.adjoint=discrete: .*checkpoint"),
        ("model.augment=-1", "model.augment=-1"),
        ("model.activation=gelu", "model.activation=gelu is unknown; valid are elu"),
        ("model.ema_decay=2", r"ema_decay must lie in \[0, 1\)"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=rf"^(?!model\.model).*{told}"):
        Run(composed(*SMALL, override), tmp_path)


def test_data_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data=digits has images; model=anode_spheres .* needs points"):
        Run(composed("model=anode_spheres", "data=digits"), tmp_path)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.body=resnet", "model.body=resnet: valid are anode_net, ode_net"),
        ("model.width=20", "model.groups=32 must divide model.width=20"),
    ],
)
def test_wrong_body_of_images(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=node_mnist", "data=digits", override), tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(["model.body=ode_net", "model.width=8", "model.groups=4"], marks=pytest.mark.slow),
        ["model.body=anode_net", "model.width=4"],
    ],
)
def test_images(body, tmp_path):
    words = ["model=node_mnist", "data=digits", "trainer.max_steps=2", "trainer.limit_test_batches=1", *body]
    trained = run(tmp_path, *words, "trainer.enable_progress_bar=False", "data.eval_batch_size=512")
    inputs, output = read_golden(trained.folder / "export")
    torch.testing.assert_close(deqzoo.load(trained.folder / "export")(**inputs), output, rtol=1e-4, atol=1e-5)


def test_ode_check_measures_what_it_says():
    torch.manual_seed(0)
    network = point_classifier(2, ["inner", "outer"], hidden=8, augment=1)
    batches = [draw_spheres(20, 2, torch.Generator().manual_seed(seed)) for seed in range(2)]
    own = network.ode.solver
    check = ode_check(network, batches, limit=30)
    assert check["n"] == 30
    assert network.ode.solver is own
    assert check["nfe_tight"] >= check["nfe"] >= 7
    assert all(0 <= check[name] <= 1 for name in ("accuracy", "accuracy_tight", "accuracy_one_step"))
    assert check["passed"] == (abs(check["accuracy"] - check["accuracy_tight"]) < 1.01 / 30)
