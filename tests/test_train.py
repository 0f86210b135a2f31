"""Runs: their folder, tests of weights, and what happens when they are cut off or go wrong."""

import json
import time

import pytest
import torch

import deqzoo
from deqzoo.config import load_run
from deqzoo.errors import ConfigError
from deqzoo.models import Classifier, NonFiniteError
from deqzoo.models.common.finite import fault_of_step
from deqzoo.models.common.metrics import total
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo.cards import model_card
from tests.running import SMALL, TWO_EPOCHS, composed, killed_after, run, train_py

RANDOM = ["model.ema_decay=0.9"]  # beside the recipe's own augmentation, lookahead and momentum


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with augmentation, lookahead and a moving average: all that is random or has a state."""
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("runs") / "a", *TWO_EPOCHS, *RANDOM)


def test_run_folder_holds_what_it_should(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"config.yaml", "metrics.json", "metrics.csv", "last.ckpt", "plots", "export"}
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["test"]["n"] == 360
    assert 0 <= metrics["test"]["accuracy"] <= 1
    assert metrics["seed"] == 0
    assert metrics["steps"] == 18
    assert {"hardware", "versions", "time", "command", "parameters", "deq_check"} <= set(metrics)
    assert {path.name for path in (finished.folder / "plots").iterdir()} == {
        "accuracy_over_nfe.png",
        "residuals.png",
        "training.png",
    }
    columns = set().union(*read_history(finished.folder / "metrics.csv"))
    assert {"train/loss", "train/nfe", "train/nfe_backward", "train/residual", "val/accuracy"} <= columns


def test_loaded_export_has_the_accuracy_of_its_metrics(finished):
    model = deqzoo.load(finished.folder / "export")
    images, labels = next(iter(finished.data.test_dataloader()))
    right = (model(images).argmax(1) == labels).float().mean().item()
    assert right == pytest.approx(finished.metrics["test"]["accuracy"], abs=1e-5)


def test_mode_test_repeats_the_number(finished, tmp_path):
    for weights in (finished.folder / "export", finished.folder, finished.folder / "last.ckpt"):
        overrides = [*SMALL, "mode=test", f"ckpt={weights}"]
        again = run(tmp_path / "test", *overrides)
        assert again.metrics["test"]["accuracy"] == finished.metrics["test"]["accuracy"]
    with pytest.raises(ConfigError, match="mode=test needs weights"):
        run(tmp_path / "x", *SMALL, "mode=test")


def test_training_from_other_weights_records_how_those_were_trained(finished, tmp_path):
    first = finished.metrics
    later = run(tmp_path, *SMALL, f"ckpt={finished.folder}", "model.lr=1e-4")
    earlier = later.metrics["started_from"]
    assert earlier == {key: first[key] for key in ("command", "steps", "time", "hardware")}
    assert f"ckpt={finished.folder} model.lr=1e-4" in later.metrics["command"]
    assert total("time", later.metrics) == first["time"] + later.metrics["time"]
    card = model_card(json.loads((tmp_path / "export" / "config.json").read_text()), later.metrics)
    assert f"| started from weights of | `{first['command']}`, {first['steps']:,} steps, " in card
    from_file = run(tmp_path / "file", *SMALL, f"ckpt={finished.folder / 'last.ckpt'}", "trainer.max_epochs=1")
    assert from_file.metrics["started_from"] is None


def test_cut_off_run_resumes_to_the_same_parameters(finished, tmp_path, monkeypatch):
    def die(self, batch, batch_idx):
        if self.global_step == 14:  # in mid-epoch, two steps after the last checkpoint
            raise OSError("killed")
        return step(self, batch, batch_idx)

    step = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", die)
    overrides = [*TWO_EPOCHS, *RANDOM, "save_every_n_steps=6"]
    with pytest.raises(OSError, match="killed"):
        run(tmp_path, *overrides)
    assert not (tmp_path / "metrics.json").exists()
    monkeypatch.setattr(Classifier, "training_step", step)
    resumed = Run(load_run(tmp_path, [f"resume={tmp_path}"]), tmp_path)
    torch.rand(7)  # whatever was drawn in between makes no difference
    resumed.fit()
    expected = finished.module.state_dict()
    for name, value in resumed.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)
    steps = [row["step"] for row in read_history(tmp_path / "metrics.csv")]
    assert steps == sorted(set(steps))
    assert steps == [row["step"] for row in read_history(finished.folder / "metrics.csv")]
    resumed.test()
    assert resumed.metrics["command"] == f"{finished.metrics['command'][:-7]} save_every_n_steps=6 seed=0"
    assert resumed.metrics["test"] == finished.metrics["test"]


def test_nan_stops_the_run_with_its_cause_and_spares_the_checkpoint(tmp_path, monkeypatch):
    def poison(self, batch, batch_idx):
        images, labels = batch
        if self.global_step >= 6:
            images[3] = torch.nan
        return step(self, (images, labels), batch_idx)

    step = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", poison)
    with pytest.raises(NonFiniteError, match=r"epoch 1, batch 6 \(step 15\).*input: sample.*\[3\].*last.ckpt"):
        run(tmp_path, *TWO_EPOCHS, "save_every_n_steps=5")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 15
    assert saved["skips"] == {"total": 9, "row": 9}
    assert all(torch.isfinite(value).all() for value in saved["state_dict"].values())


def test_bad_loss_and_bad_gradient_are_told_apart(tmp_path, monkeypatch):
    module = Run(composed(*SMALL), tmp_path).module
    parameter = next(module.network.parameters())

    class Poison(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.nan

    step = Classifier.training_step
    monkeypatch.setattr(Classifier, "training_step", lambda *args: Poison.apply(step(*args)))
    with pytest.raises(NonFiniteError, match=r"gradient is not.*solver: the backward solve diverged of DEQ layer 0"):
        run(tmp_path / "gradient", *TWO_EPOCHS)
    monkeypatch.setattr(Classifier, "training_step", step)
    with torch.no_grad():
        parameter.fill_(torch.inf)

    nan, finite = torch.tensor(torch.nan), torch.zeros(2, 1)
    assert "the parameters" in fault_of_step(nan, finite, [], module.network)
    assert "the loss: input" in fault_of_step(nan, finite, [], torch.nn.Linear(1, 1))
    assert fault_of_step(finite.sum(), finite, [], module.network) is None


def test_folder_of_another_run_is_not_overwritten(finished):
    with pytest.raises(ConfigError, match="holds a run already"):
        Run(composed(*SMALL), finished.folder)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.solver=andersen", "model.solver=andersen: valid are anderson"),
        ("model.solver=gmres", "model.solver=gmres: valid are anderson"),
        ("model.solver_options.dampign=1", "model.solver=picard: .*dampign.*damping"),
        ("model.adjoint=exact", "model.adjoint=exact: .*implicit"),
        ("model.adjoint=phantom", "model.adjoint=phantom: .*linear_solver.*steps.*~model.adjoint_options"),
        ("model.adjoint_options={linear_solver:lu}", "linear_solver=lu: valid are bicgstab, cg"),
        ("data.batch_size=0", "batch_size"),
        ("seed=-1", "seed"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed(*SMALL, override), tmp_path)


def test_wandb_works_offline_and_says_what_it_needs_online(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(tmp_path / "off", *SMALL, "trainer.max_steps=2", "trainer.max_epochs=1", "logger=wandb")
    assert list((tmp_path / "off" / "wandb").glob("offline-run-*"))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        run(tmp_path / "on", *SMALL, "trainer.max_steps=2", "logger=wandb")


def test_tensorboard_gets_the_curves_or_says_what_it_needs(tmp_path, monkeypatch):
    words = [*SMALL, "trainer.max_steps=2", "trainer.max_epochs=1", "logger=tensorboard", "trainer.log_every_n_steps=1"]
    run(tmp_path, *words)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("train/loss")] == [0, 1]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'deqzoo\[tensorboard\]'"):
        run(tmp_path / "without", *words)


def test_help_lists_the_entries_within_a_second(tmp_path):
    start = time.perf_counter()
    page = train_py("--help", cwd=tmp_path).stdout
    assert time.perf_counter() - start < 1
    for word in ("deq_digits", "deq_cifar", "cifar10", "fashion_mnist", "model.solver=", "resume=last"):
        assert word in page
    assert "kind: contractive_classifier" in train_py("model=deq_cifar", "--help", cwd=tmp_path).stdout


def test_command_line_sweeps_and_compares(tmp_path):
    words = [*SMALL, "trainer.max_epochs=1", "trainer.max_steps=2", "trainer.limit_test_batches=1"]
    told = train_py("-m", "model.solver=picard,anderson", *words, cwd=tmp_path)
    results = sorted((tmp_path / "outputs" / "sweeps").glob("*/*/metrics.json"))
    assert [json.loads(path.read_text())["overrides"][0] for path in results] == [
        "model.solver=picard",
        "model.solver=anderson",
    ]
    assert "Warning" not in told.stderr
    assert "reached" in told.stdout
    wrong = train_py("model.widhts=[8]", cwd=tmp_path, check=False)
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("Error: there is no setting 'model.widhts'; valid are")


@pytest.mark.slow
def test_killed_process_resumes_to_the_same_parameters(tmp_path):
    words = [*TWO_EPOCHS, "trainer.max_epochs=10", "save_every_n_steps=4"]
    train_py(*words, "hydra.run.dir=whole", cwd=tmp_path)
    folder = killed_after(30, *words, cwd=tmp_path)
    train_py("resume=last", cwd=tmp_path)
    one, other = (torch.load(path / "last.ckpt", weights_only=True) for path in (tmp_path / "whole", folder))
    assert one["global_step"] == other["global_step"] == 90
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(value, other["state_dict"][name], rtol=0, atol=1e-6, msg=name)
