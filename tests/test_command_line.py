"""What the command line says of mistakes, and how it ends."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deqzoo.errors import ConfigError, Stopped
from deqzoo.launch import launch
from deqzoo.training import Run
from deqzoo.training.limits import limited
from deqzoo.training.report import report_sweep
from tests.running import ROOT, SMALL, TWO_EPOCHS, composed, run

QUICK = ["model=deq_digits", *TWO_EPOCHS]


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command line in process, with another main: what it exits with; the working directory is empty."""
    monkeypatch.chdir(tmp_path)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def call(main, *words):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # `launch` changes it; so it is set back
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        with pytest.raises(SystemExit) as ended:
            launch(main)
        return ended.value.code

    yield call
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def start(config):
    Run.start(config)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model=deq_digit", "there is no entry 'deq_digit'; valid are .* Did you mean deq_digits?"),
        ("data=cifar1", "there is no data set 'cifar1'; valid are .* Did you mean cifar10?"),
        ("model.solvr=picard", "there is no setting 'model.solvr'; valid are .* Did you mean model.solver?"),
        ("+trainer.foo=1", "there is no setting 'trainer.foo'; valid are trainer.accelerator"),
        ("+model.foo=1", "there is no setting 'model.foo'; valid are model.adjoint"),
        ("~trainer", "there is no setting 'trainer'"),
        ("+foo=1", "there is no setting 'foo'; valid are ckpt"),
        ("model.lr=-1", "model.lr=-1.0: it must be a number above 0"),
        ("model.lr=nan", "model.lr=nan: it must be a number above 0"),
        ("threads=0", "threads=0: it must be 1 or more"),
        ("threads=100000", "threads=100000: it must be 1 or more, and 1024 at most"),
        ("save_every_n_steps=0", "save_every_n_steps=0: it must be 1 or more"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0: it must be 1 or more, or -1"),
        ("trainer.limit_test_batches=abc", "trainer.limit_test_batches=abc: it must be a number of batches"),
        ("trainer.limit_train_batches=2.5", "trainer.limit_train_batches=2.5: it must be a number of batches"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval=0: it must be a number of steps"),
        ("trainer.num_sanity_val_steps=-7", "trainer.num_sanity_val_steps=-7: it must be 0 or more"),
        ("trainer.devices=0", "trainer.devices=0: it must be a number, 1 or more"),
        ("trainer.devices=9999", r"trainer.devices=9999: this machine has \d+ processors"),
        ("=3", "the command line cannot be read: .* Each word is NAME=VALUE"),
        ("data.batch_size=-3", "data.batch_size must be at least 1, got -3"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(word, told, command, tmp_path):
    said = command(start, *([] if word.startswith("model=") else ["model=deq_digits"]), word)
    assert re.match("Error: " + told.replace("?", r"\?"), said), said
    assert "\n" not in said
    assert not list(tmp_path.iterdir())


def test_a_stage_that_is_no_setting_leaves_no_file(command, tmp_path):
    said = command(lambda config: Run.start(config).fit(), *QUICK, "stages=[foo]")
    assert said.startswith("Error: Error parsing override 'foo' missing EQUAL")
    assert not list(tmp_path.rglob("*.yaml"))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("trainer.accelerator=foo", "accelerator='foo'.*Available names are: auto"),
        ("trainer.precision=17", "Precision 17 is invalid. Allowed"),
        ("trainer.strategy=foo", "foo"),
        ("trainer.profiler=foo", "profiler.*can only be one of"),
    ],
)
def test_a_setting_that_lightning_refuses_is_one_line_and_leaves_no_file(word, told, tmp_path):
    with pytest.raises(ConfigError, match=told) as error:
        Run(composed(*QUICK, word), tmp_path / "run").fit()
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.yaml"))


@pytest.mark.parametrize("folder", ["file/run", "/proc/none", "x" * 300])
def test_a_folder_that_cannot_be_written_says_so(folder, command, tmp_path):
    (tmp_path / "file").touch()
    said = command(start, f"hydra.run.dir={folder}")
    assert said.startswith("Error: ")
    assert folder in said
    assert "hydra.run.dir" in said


@pytest.mark.parametrize("model", ["deq_cifar", "deq_cifar_small"])  # with stages, and without
def test_a_start_without_its_data_leaves_nothing(model, command, tmp_path):
    words = [f"model={model}", "data.root=none", "data.download=False", "hydra.run.dir=run"]
    for _ in range(2):  # so that the next try finds its folder free
        said = command(lambda config: Run.start(config).fit(), *words)
        assert said.startswith("Error: CIFAR-10: the file data_batch_1.bin is not in none/cifar-10-batches-bin")
        assert not list(tmp_path.iterdir())


def test_a_full_disk_says_so(command, capsys):
    def main(config):
        raise OSError(errno.ENOSPC, "No space left on device", "outputs/last.ckpt")

    assert command(main) == (
        "Error: the disk is full (outputs/last.ckpt). Free some space; `resume=last` goes on from the last checkpoint."
    )
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_any_part_with_its_code(signum, code, command, monkeypatch, capsys):
    monkeypatch.setattr("deqzoo.signals._end_process_later", lambda signum: None)

    def main(config):
        os.kill(os.getpid(), signum)
        time.sleep(5)

    assert command(main) == code
    assert capsys.readouterr().err.strip() == "Stopped."


def test_a_signal_waits_for_the_step_and_writes_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("deqzoo.signals._end_process_later", lambda signum: None)
    whole = run(tmp_path / "whole", *QUICK)
    cut = Run(composed(*QUICK), tmp_path / "cut")
    step = type(cut.module).training_step

    def stopping(module, batch, index):
        if module.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(module, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(type(cut.module), "training_step", stopping)
        with pytest.raises(
            Stopped, match=re.escape(f"Stopped at step 5. `python train.py resume={cut.folder}`")
        ) as end:
            cut.fit()
    assert end.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is not None
    resumed = Run(composed(*QUICK, f"resume={cut.folder}"), cut.folder)
    resumed.fit()
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert a.equal(b)


def test_a_signal_in_the_validation_writes_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("deqzoo.signals._end_process_later", lambda signum: None)
    whole = run(tmp_path / "whole", *QUICK)
    cut = Run(composed(*QUICK), tmp_path / "cut")
    step = type(cut.module).validation_step

    def stopping(module, batch, index):
        os.kill(os.getpid(), signal.SIGINT)
        return step(module, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(type(cut.module), "validation_step", stopping)
        with pytest.raises(Stopped, match="Stopped at step 9"):
            cut.fit()
    resumed = Run(composed(*QUICK, f"resume={cut.folder}"), cut.folder)
    resumed.fit()
    assert resumed.metrics["steps"] == whole.metrics["steps"]
    for a, b in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert a.equal(b)


def test_a_signal_after_the_last_step_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("deqzoo.signals._end_process_later", lambda signum: None)
    cut = Run(composed(*QUICK), tmp_path)
    monkeypatch.setattr(
        type(cut.module), "on_fit_end", lambda module: os.kill(os.getpid(), signal.SIGTERM), raising=False
    )
    with pytest.raises(Stopped, match=r"Stopped after the training\. `python train\.py resume=") as end:
        cut.fit()
    assert end.value.code == 143


def test_a_step_that_takes_too_long_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("deqzoo.signals._end_process_later", lambda signum: None)
    monkeypatch.setattr("deqzoo.signals.PATIENCE", 0.2)
    cut = Run(composed(*QUICK), tmp_path)

    def endless(module, batch, index):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(type(cut.module), "training_step", endless)
    with pytest.raises(Stopped, match="No checkpoint had been written yet") as end:
        cut.fit()
    assert end.value.code == 130


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_ends_within_seconds(signum, code, tmp_path):
    words = [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=1000", "hydra.run.dir=run"]
    process = subprocess.Popen(words, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    while not (tmp_path / "run" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signum)
    _, said = process.communicate(timeout=60)  # it takes four seconds; a busy machine is late to notice
    assert process.returncode == code
    assert b"Stopped at step" in said


def test_limits_bind_what_follows_the_training(tmp_path):
    words = [*SMALL, "trainer.max_steps=2", "data.eval_batch_size=32", "trainer.limit_test_batches=3"]
    found = run(tmp_path, *words)
    assert found.metrics["test"]["n"] == 96
    assert found.metrics["deq_check"]["n"] == 64
    assert limited(1, 0.0, -1) == 1


def test_a_sweep_shows_what_differs(monkeypatch):
    shown = []
    monkeypatch.setattr("deqzoo.training.report.console.print", shown.append)
    runs = [
        {"overrides": ["model=deq_digits", f"model.lr={lr}"], "test": {"accuracy": 0.5}, "time": 1.0} for lr in (1, 2)
    ]
    report_sweep(runs)
    assert [column.header for column in shown[0].columns] == ["run", "model.lr", "accuracy", "time"]
    assert list(shown[0].columns[1].cells) == ["1", "2"]


def test_the_first_line_comes_before_torch(command, capsys):
    command(lambda config: sys.exit(int("torch" in Path(capsys.readouterr().out).name)), "model=deq_digits")
