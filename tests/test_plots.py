"""The figures: they are drawn, they are PNG files, and their axes say what they show."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from deqzoo.plots import (
    ODE_PANELS,
    animate_flow,
    animate_maze,
    figure,
    plot_flow,
    plot_mazes,
    plot_over_hops,
    plot_over_nfe,
    plot_phase_portrait,
    plot_residuals,
    plot_training,
    plot_values,
)


@pytest.fixture
def drawn(monkeypatch):
    figures = []
    save = figure.save
    for module in ("budget", "flow", "mazes", "residuals", "training"):
        monkeypatch.setattr(f"deqzoo.plots.{module}.save", lambda fig, path: figures.append(fig) or save(fig, path))
    return figures


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_residuals_have_a_panel_per_layer_and_a_line_per_solver(tmp_path, drawn):
    decay = 0.5 ** torch.arange(8.0)[:, None] * torch.rand(8, 5)
    decay[-1, 0] = torch.nan  # a sample that diverged
    path = plot_residuals({"picard": [decay, decay], "anderson": [decay**2, decay]}, 1e-2, tmp_path / "r.png")
    assert is_png(path)
    axes = drawn[0].axes
    assert len(axes) == 2
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == [
        "picard, median",
        "anderson, median",
        "middle 80 % of the samples",
        "tolerance 0.01",
    ]
    assert all(axis.get_yscale() == "log" and axis.get_xlabel() == "iteration" for axis in axes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_residuals_below_the_precision_are_drawn_at_it(tmp_path, drawn, dtype):
    trace = torch.tensor([[1.0, 1.0], [1e-3, 1e-25], [0.0, 0.0]], dtype=dtype)
    plot_residuals({"broyden": [trace]}, None, tmp_path / "r.png")
    (axis,) = drawn[0].axes
    assert f"precision {torch.finfo(dtype).eps:.0e}" in [text.get_text() for text in axis.get_legend().get_texts()]
    band, median = axis.collections[0].get_paths()[0].vertices[:, 1], axis.lines[0].get_ydata()
    precision = torch.finfo(dtype).eps
    assert min(band) == median[-1] == precision
    assert median[1] == pytest.approx(0.5e-3, rel=1e-3)


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


def test_many_batches_have_a_running_mean_beside_them(tmp_path, drawn):
    rows = [{"step": step, "train/accuracy": step % 2} for step in range(60)]
    rows += [{"step": step, "val/accuracy": 0.5} for step in range(0, 60, 20)]
    assert is_png(plot_training(rows, tmp_path / "t.png"))
    (axis,) = drawn[0].axes
    raw, mean, validation = axis.lines
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "training, single batches",
        "training, mean of 4",
        "validation",
    ]
    assert set(raw.get_ydata()) == {0, 1}
    assert set(mean.get_ydata()[3:]) == {0.5}
    assert list(validation.get_ydata()) == [0.5, 0.5, 0.5]


def test_titles_of_an_animation_do_not_overlap(tmp_path):
    made, (axis,) = figure.panels(1, "A title over the panel")
    figure.save_animation(made, lambda frame: axis.set_title(f"t = {frame}"), 2, tmp_path / "a.gif")
    renderer = FigureCanvasAgg(made).get_renderer()
    over, under = made._suptitle.get_window_extent(renderer), axis.title.get_window_extent(renderer)
    assert over.y0 > under.y1


def test_a_number_over_its_cost_has_a_line_per_solver(tmp_path, drawn):
    curves = {"picard": [(2, 3.0), (3, 2.5)], "anderson": [(2, 3.0), (3, 2.2), (4, 2.1)]}
    assert is_png(plot_over_nfe(curves, "bits per character", tmp_path / "c.png"))
    (axis,) = drawn[0].axes
    assert [line.get_xydata().tolist() for line in axis.lines] == [
        list(map(list, points)) for points in curves.values()
    ]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("NFE of a solve", "bits per character")


def test_accuracy_over_hops_leaves_out_where_there_are_no_nodes(tmp_path, drawn):
    curves = {"this entry": torch.tensor([1.0, torch.nan, 0.5]), "another": torch.tensor([1.0, 0.9, 0.5])}
    assert is_png(plot_over_hops(curves, tmp_path / "h.png"))
    (axis,) = drawn[0].axes
    assert axis.lines[0].get_xydata().tolist() == [[0, 100], [2, 50]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(curves)


def test_a_run_too_short_to_have_logged_still_draws(tmp_path):
    assert is_png(plot_training([], tmp_path / "t.png"))


def test_training_of_an_ode_shows_nfe_and_steps(tmp_path, drawn):
    rows = [{"step": step, "train/nfe": 19.0, "train/steps": 3.0, "train/rejected": 1.0} for step in range(5)]
    assert is_png(plot_training(rows, tmp_path / "t.png", ODE_PANELS))
    nfe, steps = drawn[0].axes  # no accuracy was logged, so there is no panel of it
    assert (len(nfe.lines), len(steps.lines)) == (1, 2)
    assert steps.get_ylim()[0] == 0


@pytest.fixture
def flow():
    times = torch.linspace(0, 1, 5)
    states = torch.randn(40, 3) * (1 + times[:, None, None])
    return times, states, torch.arange(40) % 2, ["inner", "outer"]


def test_flow_shows_moments_and_ways(tmp_path, drawn, flow):
    assert is_png(plot_flow(*flow, tmp_path / "f.png"))
    *moments, ways = drawn[0].axes
    assert [axis.get_title() for axis in moments] == ["t = 0.00", "t = 0.25", "t = 0.75", "t = 1.00"]
    assert len(ways.lines) == 40
    assert [text.get_text() for text in moments[0].get_legend().get_texts()] == ["inner", "outer"]


def test_flow_moves(tmp_path, flow):
    path = animate_flow(*flow, tmp_path / "f.gif")
    with Image.open(path) as animation:
        assert animation.format == "GIF"
        assert animation.n_frames == 5  # the last one, which stands, counts once
        animation.seek(0)
        first = animation.convert("RGB").tobytes()
        animation.seek(4)
        assert animation.convert("RGB").tobytes() != first
    assert [each.name for each in tmp_path.iterdir()] == ["f.gif"]


def test_phase_portrait_shows_the_field_and_the_ways_on_it(tmp_path, drawn):
    asked = []

    def field(y):
        asked.append(y)
        return torch.stack([-y[:, 1], y[:, 0]], 1)

    angle = torch.linspace(0, 3, 20)[:, None] + torch.arange(4.0)
    ways = torch.stack([angle.cos(), angle.sin()], 2)
    path = plot_phase_portrait(field, ways, tmp_path / "p.png", groups=["a", "a", "b", "b"], names=("angle", "speed"))
    assert is_png(path)
    axis, colorbar = drawn[0].axes
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("angle", "speed")
    assert colorbar.get_ylabel() == "speed |dy/dt|"
    (legend,) = drawn[0].legends
    told = ["direction of the field", "a, and its end", "b, and its end"]
    assert [text.get_text() for text in legend.get_texts()] == told
    assert asked[0].shape[1] == 2
    assert asked[0].amin() <= ways.amin()


def test_mazes_have_a_curve_for_each_size_and_each_network(tmp_path, drawn):
    over_nfe = {9: {8: 0.5, 16: 1.0}, 19: {8: 0.0, 16: 0.25}}
    over_size = {"equilibrium": {9: 1.0, 19: 0.25}, "layers": {9: 0.5, 19: 0.0}}
    assert is_png(plot_mazes(over_nfe, over_size, 13, tmp_path / "m.png"))
    steps, sizes = drawn[0].axes
    assert [line.get_ydata().tolist() for line in steps.lines] == [[50.0, 100.0], [0.0, 25.0]]
    assert [text.get_text() for text in steps.get_legend().get_texts()] == ["9 x 9 cells", "19 x 19 cells"]
    assert [list(line.get_xdata()) for line in sizes.lines] == [[9, 19], [9, 19], [13, 13]]


def test_values_are_drawn_where_some_have_come_and_walls_left_out(tmp_path, drawn):
    maze = torch.tensor([[2, 1, 0], [0, 1, 3]])
    values = {1: torch.tensor([[0.0, 0, 0], [0, 0, 1]]), 4: torch.tensor([[0.7, 0.8, 0.1], [0.1, 0.9, 1]])}
    way = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    assert is_png(plot_values(maze, values, way, tmp_path / "v.png"))
    early, late, found = drawn[0].axes[:3]
    assert early.images[1].get_array().compressed().tolist() == [1]
    assert late.images[1].get_array().compressed().tolist() == pytest.approx([0.7, 0.8, 0.9, 1])
    assert found.images[1].get_array().compressed().tolist() == []
    assert found.collections[0].get_offsets().tolist() == [[0, 0], [1, 0], [1, 1], [2, 1]]
    assert found.get_title() == "a way of 3 steps"
    assert {text.get_text() for text in early.texts} == {"S", "G"}
    frames = [(1, values[1], torch.zeros_like(way)), (4, values[4], way)]
    assert animate_maze(maze, frames, tmp_path / "m.gif").read_bytes()[:3] == b"GIF"
