"""The figures: they are drawn, they are PNG files, and their axes say what they show."""

import pytest
import torch

from deqzoo.plots import figure, plot_residuals, plot_training


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    save = figure.save
    for module in ("residuals", "training"):
        monkeypatch.setattr(f"deqzoo.plots.{module}.save", lambda fig, path: figures.append(fig) or save(fig, path))
    return figures


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_residuals_have_a_panel_a_layer_and_a_line_a_solver(tmp_path, drawn):
    decay = 0.5 ** torch.arange(8.0)[:, None] * torch.rand(8, 5)
    decay[-1, 0] = torch.nan  # a sample that diverged
    path = plot_residuals({"picard": [decay, decay], "anderson": [decay**2, decay]}, 1e-2, tmp_path / "r.png")
    assert is_png(path)
    axes = drawn[0].axes
    assert len(axes) == 2
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [
        "picard",
        "anderson",
        "tolerance 0.01",
    ]
    assert all(axis.get_yscale() == "log" and axis.get_xlabel() == "iteration" for axis in axes)


def test_training_shows_accuracy_nfe_and_residual(tmp_path, drawn):
    rows = [
        {"step": step, "train/nfe": 9.0, "train/nfe_backward": 7.0, "train/residual": 1e-3 / (step + 1)}
        for step in range(0, 60, 10)
    ] + [{"step": 59, "val/accuracy": 0.9}]
    assert is_png(plot_training(rows, tmp_path / "t.png"))
    accuracy, nfe, residual = drawn[0].axes
    assert len(nfe.lines) == 2
    assert len(accuracy.lines) == 1
    assert residual.get_yscale() == "log"


def test_a_run_too_short_to_have_logged_still_draws(tmp_path):
    assert is_png(plot_training([], tmp_path / "t.png"))
