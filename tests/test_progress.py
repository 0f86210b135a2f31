"""What a run shows while it goes on."""

import re
from types import SimpleNamespace

import pytest

from deqzoo.training import progress

CLOCK = r"\d\d:\d\d:\d\d  "


def trainer(step, epochs=3):
    return SimpleNamespace(
        is_global_zero=True, current_epoch=0, global_step=step, estimated_stepping_batches=50, num_val_batches=[4],
        num_test_batches=[8], logged_metrics={"train/loss": 2.5, "val/accuracy": 0.9}, max_epochs=epochs,
    )  # fmt: skip


@pytest.fixture
def lines(monkeypatch):
    shown, now = [], [0.0]
    monkeypatch.setattr(progress.console, "print", lambda line: shown.append(line))
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.append(now[-1] + 1.0) or now[-1])  # a second a look
    return shown


def test_without_a_terminal_a_line_comes_after_each_validation(lines):
    run = progress.RunProgress()
    run.on_train_start(trainer(0), None)
    run.on_train_batch_end(trainer(1), None)
    run.on_validation_batch_end(trainer(1), None, None, None, 0)
    run.on_validation_end(trainer(1), None)
    (line,) = lines
    pace = r"\d+ s/step, \d+ (s|min) left"
    assert re.fullmatch(CLOCK + rf"epoch 1 of 3  step 1 of 50  {pace}  loss 2.5  val accuracy 0.9", line), line


def test_without_a_terminal_long_epochs_and_tests_are_told_of(lines, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    run = progress.RunProgress()
    run.on_train_start(trainer(0, epochs=-1), None)
    run.on_train_batch_end(trainer(10, epochs=-1), None)
    run.on_validation_batch_end(trainer(10, epochs=-1), None, None, None, 2)
    run.on_train_end(trainer(10), None)
    run.on_test_start(trainer(10), None)
    run.on_test_batch_end(trainer(10), None, None, None, 4)
    told = [re.sub(CLOCK, "", line).split("  ") for line in lines]
    assert [line[:2] for line in told] == [["epoch 1", "step 10 of 50"]] * 2 + [["test", "batch 5 of 8"]]
    assert told[0][3:] == ["loss 2.5", "val accuracy 0.9"]
    assert told[1][3:] == ["validating, batch 3 of 4"]
    assert told[2][2].endswith("left")


def test_a_resumed_run_counts_its_own_steps_for_the_rate(lines):
    display = progress.Display("epoch 2", "step", 40, 50)
    display.done = 44
    assert display.pace() == "2 steps/s, 3 s left"  # 4 steps in 2 of the clock's seconds


def test_checks_show_their_progress(lines, monkeypatch):
    monkeypatch.setattr(progress, "_LINE_EVERY", 0.0)
    assert list(progress.watched("check", iter("abc"), 3)) == ["a", "b", "c"]
    assert [line.split("  ")[1:3] for line in lines] == [["check", f"batch {i} of 3"] for i in (1, 2, 3)]


def test_nothing_is_shown_when_it_is_turned_off(lines):
    run = progress.RunProgress()
    run.disable()
    run.on_train_start(trainer(0), None)
    run.on_validation_end(trainer(1), None)
    assert lines == []
