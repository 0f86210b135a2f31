"""Accuracy and residual over NFE: measured with each solver's own steps, and drawn."""

import torch

from deqzoo.models import mondeq_conv
from deqzoo.plots import Budget, budget_curves, figure, plot_budget


def test_each_solver_is_run_with_each_number_of_steps():
    torch.manual_seed(0)
    network = mondeq_conv(["a", "b"], [0.5], [0.3], widths=[3], grid=2).eval()
    own, images = network.body.solver, torch.rand(6, 1, 6, 6)
    labels = network(images).argmax(1)
    labels[0] = 1 - labels[0]
    curves = budget_curves(
        network, [(images[:4], labels[:4]), (images[4:], labels[4:])], ["picard", "anderson"], [1, 9]
    )
    assert list(curves) == ["picard", "anderson"]
    for found in curves.values():
        assert found.nfe == [2, 10]
        assert found.accuracy[1] == 5 / 6
        assert 0 < found.residual[1] < found.residual[0] < 1
    cell, x = network.body.cell, network.stem((images - network.mean) / network.std)
    first = cell(cell.initial_state(x), x)  # one step of plain iteration from zero
    second = cell(first, x)
    residuals = (second[0] - first[0]).flatten(1).norm(dim=1) / second[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(torch.tensor(curves["picard"].residual[0]), residuals.median())
    assert network.body.solver is own
    assert not network.body._forward_hooks


def test_plot_has_a_line_per_solver(tmp_path, monkeypatch):
    figures = []
    save = figure.save
    monkeypatch.setattr("deqzoo.plots.budget.save", lambda fig, path: figures.append(fig) or save(fig, path))
    found = Budget([2, 3, 5], [0.2, 0.6, 0.9], [0.5, 0.1, 1e-3])
    path = plot_budget({"anderson": found, "picard": found}, tmp_path / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    accuracy, residual = figures[0].axes
    assert len(accuracy.lines) == len(residual.lines) == 2
    assert list(accuracy.lines[0].get_ydata()) == [20, 60, 90]
    assert residual.get_yscale() == "log"
    assert accuracy.get_xlabel() == residual.get_xlabel() == "NFE"
