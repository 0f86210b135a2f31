"""Meta-regression: short trainings of the recipes, what they log, what is told, and settings that cannot be."""

import json

import pytest
import torch

import deqzoo
from deqzoo.errors import ConfigError
from deqzoo.implicit import CG, Damped, NewtonCG
from deqzoo.models import NonFiniteError
from deqzoo.models.meta.config import MetaRegressionConfig
from deqzoo.models.meta.options import adaptation
from deqzoo.nn import IMAML, MAML, FirstOrderMAML
from deqzoo.plots import plot_adaptation
from deqzoo.training import Run
from tests.running import composed, run

SMALL = [
    "trainer.enable_progress_bar=False",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=3",
    "model.hidden=[8]",
    "data.batch_size=4",
    "data.train_size=12",
    "data.val_size=8",
    "data.test_size=10",
    "data.eval_batch_size=4",
]
METHOD = {
    "imaml_sinusoid": ["model.solver_options.max_steps=6", "model.linear_solver_options.max_steps=4"],
    "maml_sinusoid": ["model.inner_steps=3"],
    "fomaml_sinusoid": ["model.inner_steps=3"],
}


@pytest.mark.parametrize("entry", METHOD)
def test_short_training(entry, tmp_path):
    finished = run(tmp_path, f"model={entry}", *SMALL, *METHOD[entry])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    test, implicit = metrics["test"], entry == "imaml_sinusoid"
    assert test["n"] == 10
    assert ("stationarity" in test) == implicit
    assert metrics["adaptation"]["after"] == pytest.approx(test["mse"], rel=1e-3)
    columns = (tmp_path / "metrics.csv").read_text()
    assert ("train/meta_residual" in columns) == ("train/bad_curvature" in columns) == implicit
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"adaptation.png", "training.png"}
    card = (tmp_path / "export" / "README.md").read_text()
    assert "## Does it adapt?" in card
    assert "±" in card.splitlines()[2]
    _loaded_model_is_the_trained_one(tmp_path, finished, implicit)
    _interval_is_that_of_the_mean_over_tasks(finished, test)


def _loaded_model_is_the_trained_one(folder, finished, implicit):
    model, trained = deqzoo.load(folder / "export"), finished.module.network
    x, y, queries, targets = next(iter(finished.data.test_dataloader()))
    torch.testing.assert_close(model(x, y, queries), trained(x, y, queries), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.adapt(x[0], y[0])(queries[0]), model(x, y, queries)[0], atol=1e-4, rtol=1e-4)
    if implicit:
        other = deqzoo.load(folder / "export", solver="newton_cg", tol=1e-4, max_steps=50)
        assert other.method.solver == NewtonCG(tol=1e-4, max_steps=50)
    finished.module.step(trained, (x, y, queries, targets), "train").loss.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in trained.parameters())


def _interval_is_that_of_the_mean_over_tasks(finished, test):
    errors = []
    for x, y, queries, targets in finished.data.test_dataloader():
        errors.append((finished.module.network(x, y, queries).detach() - targets).square().mean((1, 2)))
    errors = torch.cat(errors)
    assert test["mse"] == pytest.approx(errors.mean().item(), rel=1e-3)
    assert test["mse_interval"] == pytest.approx(1.96 * errors.std().item() / 10**0.5, rel=1e-3)


def test_card_has_the_paired_difference_from_a_baseline(tmp_path):
    words = ["model=fomaml_sinusoid", *SMALL, "model.inner_steps=3"]
    first = run(tmp_path / "first", *words)
    exported = tmp_path / "first" / "export"
    same = run(tmp_path / "same", *words, f"model.baselines=[{exported}]").metrics["adaptation"]["baselines"]
    found = same[str(exported)]
    assert found["mse"] == pytest.approx(first.metrics["adaptation"]["after"], rel=1e-3)
    assert found["difference"] == pytest.approx(0.0, abs=1e-6)  # the same network on the same tasks
    assert found["difference_interval"] == pytest.approx(0.0, abs=1e-6)
    other = run(tmp_path / "other", *words, "model.inner_lr=0.05", f"model.baselines=[{exported}]").metrics
    found = other["adaptation"]["baselines"][str(exported)]
    assert found["difference"] == pytest.approx(other["test"]["mse"] - found["mse"], rel=1e-3)
    assert found["difference_interval"] > 0
    assert "this entry's error less that of" in (tmp_path / "other" / "export" / "README.md").read_text()


def test_a_nan_in_a_support_target_stops_the_run_and_names_the_task(tmp_path):
    started = Run(composed("model=imaml_sinusoid", *SMALL), tmp_path)
    started.data.setup()
    started.data.tensors[1][started.data.parts["train"]] = torch.nan  # the inner solve would keep its start
    with pytest.raises(NonFiniteError, match=r"the input: sample\(s\) \[0, 1, 2, 3\]"):
        started.fit()


def test_settings_become_the_method():
    assert adaptation(MetaRegressionConfig(method="maml", inner_steps=3, inner_lr=0.1)) == MAML(3, 0.1)
    assert adaptation(MetaRegressionConfig(method="first_order", inner_steps=3)) == FirstOrderMAML(3, 0.01)
    settings = MetaRegressionConfig(strength=2.0, solver="newton_cg", damping=0.5)
    assert adaptation(settings) == IMAML(2.0, NewtonCG(), Damped(CG(), 0.5), on_failure="ignore")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.method=reptile", "valid are first_order, imaml, maml"),
        ("model.solver=anderson", "model.solver=anderson: valid are gradient_descent, lbfgs, newton_cg"),
        ("model.linear_solver=lu", "model.linear_solver=lu: valid are bicgstab, cg, dense"),
        ("model.damping=-1", "model.damping=-1.0: it must not be negative"),
        ("model.strength=0", "model.strength must be positive"),
        ("model.inner_steps=50", "model.inner_steps has no meaning for model.method=imaml"),
        ("model.inner_lr=0", "model.inner_lr positive"),
        ("model.chunk=0", "model.chunk must be at least 1"),
        ("model.activation=sin", "model.activation=sin: valid are relu, silu, tanh"),
        ("data=spheres", "needs tasks"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=imaml_sinusoid", override), tmp_path)


def test_tasks_have_a_panel_each(tmp_path, monkeypatch):
    from deqzoo.plots import series as module

    figures, save = [], module.save
    monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    grid, points = torch.linspace(-5, 5, 50)[None, :, None].expand(2, -1, 1), torch.randn(2, 5, 1)
    plot_adaptation(grid, {"before": grid, "after": grid.sin()}, (points, points), (points, points), tmp_path / "a.png")
    assert [len(axis.lines) for axis in figures[0].axes] == [4, 4]
    legend = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert legend == ["before adaptation", "after adaptation", "asked", "given"]
