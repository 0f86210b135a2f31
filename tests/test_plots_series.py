"""The figures of series and pendulums: they are drawn, and show what they say."""

import pytest
import torch

from deqzoo.plots import animate_series, plot_fit, plot_parameters, plot_plane, plot_series, series


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    save = series.save
    monkeypatch.setattr(series, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    return figures


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def given(channels=2):
    times = torch.linspace(0, 2, 20)
    truth = torch.sin(times)[None, :, None].expand(2, -1, channels)
    shown = truth.where(times[None, :, None] < 1, torch.nan)
    return times, shown, truth + 0.1 * torch.randn(50, *truth.shape), truth


def test_series_have_a_panel_each_and_at_most_three_channels(tmp_path, drawn):
    times, shown, draws, truth = given(channels=5)
    assert is_png(plot_series(times, shown, draws, truth, 1.0, tmp_path / "s.png"))
    axes = drawn[0].axes
    assert len(axes) == 2
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert legend == ["channel 1", "channel 2", "channel 3"]
    assert len(axes[0].collections) == 3  # bands
    (meanings,) = drawn[0].legends
    told = ["shown", "median", "middle 90 %", "truth", "end of the window"]
    assert [text.get_text() for text in meanings.get_texts()] == told


def test_animation_has_a_frame_for_each_share(tmp_path):
    from PIL import Image

    times, shown, draws, truth = given()
    path = animate_series(times, [(shown, draws), (shown, 2 * draws)], truth, 1.0, tmp_path / "s.gif")
    with Image.open(path) as picture:
        assert picture.format == "GIF"
        assert picture.n_frames >= 2


def test_plane_shows_truth_shown_and_paths(tmp_path, drawn):
    _, shown, draws, truth = given()
    assert is_png(plot_plane(shown, draws, truth, tmp_path / "p.png"))
    assert len(drawn[0].axes[0].lines) == 20 + 2


def test_fit_and_parameters(tmp_path, drawn):
    times = torch.linspace(0, 2, 20)
    angles = {name: torch.randn(4, 20) for name in ("measured", "truth", "solved")}
    assert is_png(plot_fit(times, angles, 1.0, tmp_path / "f.png"))
    rows = [{"step": step, "train/damping": 0.2 + 1 / (step + 1)} for step in range(9)]
    assert is_png(plot_parameters(rows, {"damping": 0.2, "gravity_over_length": 9.81}, tmp_path / "p.png"))
    fit, parameters = drawn
    assert [len(axis.lines) for axis in fit.axes] == [4, 4, 4]
    assert [len(axis.lines) for axis in parameters.axes] == [2, 1]
