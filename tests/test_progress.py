"""What a run shows while it goes on."""

from types import SimpleNamespace

import pytest

from deqzoo.training import callbacks


def trainer(step):
    return SimpleNamespace(
        is_global_zero=True, current_epoch=0, global_step=step, estimated_stepping_batches=50, num_val_batches=[4],
        num_test_batches=[8], logged_metrics={"train/loss": 2.5, "val/accuracy": 0.9},
    )  # fmt: skip


@pytest.fixture
def lines(monkeypatch):
    shown = []
    monkeypatch.setattr(callbacks.console, "print", lambda line: shown.append(line))
    return shown


def test_without_a_terminal_a_line_comes_after_each_validation(lines):
    progress = callbacks.RunProgress()
    progress.on_train_start(trainer(0), None)
    progress.on_train_batch_end(trainer(1), None)
    progress.on_validation_batch_end(trainer(1), None, None, None, 0)
    progress.on_validation_end(trainer(1), None)
    assert lines == ["epoch 1  step 1  loss 2.5  val accuracy 0.9"]


def test_without_a_terminal_long_epochs_and_tests_are_told_of(lines, monkeypatch):
    monkeypatch.setattr(callbacks, "_LINE_EVERY", 0.0)
    progress = callbacks.RunProgress()
    progress.on_train_batch_end(trainer(7), None)
    progress.on_validation_batch_end(trainer(7), None, None, None, 2)
    progress.on_test_batch_end(trainer(7), None, None, None, 4)
    assert [line.split("  ")[1:3] for line in lines] == [
        ["step 7 of 50", "loss 2.5"],
        ["step 7", "validating, batch 3 of 4"],
        ["step 5 of 8", "loss 2.5"],
    ]


def test_nothing_is_shown_when_it_is_turned_off(lines):
    progress = callbacks.RunProgress()
    progress.disable()
    progress.on_validation_end(trainer(1), None)
    assert lines == []
