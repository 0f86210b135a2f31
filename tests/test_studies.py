"""The studies run (small), and find what is known."""

import dataclasses
import json
import sys

import pytest
import torch

from deqzoo.data import ImageData
from deqzoo.data.sinusoids import draw_sinusoids
from deqzoo.implicit import LBFGS
from deqzoo.models import DEQClassifierModule, MetaLearner, build_network
from deqzoo.nn import IMAML
from deqzoo.nn.dynamics import mlp
from studies import (
    chains,
    cifar_choices,
    deq_options,
    meta_gradients,
    unrolling,
    well_posed,
    well_posed_cifar,
    well_posed_step,
)


@pytest.mark.slow
def test_options_of_a_recipe_are_trained_timed_and_written(tmp_path, monkeypatch, capsys):
    exact = ("backward", "exact: GMRES, 30 products at most")
    chosen = [deq_options.SHIPPED, ("Broyden", "inverse shared, no product (SHINE)"), exact]
    monkeypatch.setattr(deq_options, "OPTIONS", {name: deq_options.OPTIONS[name] for name in chosen})
    monkeypatch.setattr(sys, "argv", ["deq_options.py", "--quick", "--json", str(tmp_path / "o.json")])
    assert deq_options.main() == 0
    shipped, shine, exact = json.loads((tmp_path / "o.json").read_text())["rows"]
    assert (shipped["ratio"], shipped["nfe_backward"], shine["nfe_backward"]) == (1, 3, 0)
    assert exact["nfe_backward"] > 3
    assert all(0 < row["accuracies"][0] < 1 and row["nfe"] > 4 for row in (shipped, shine, exact))
    assert "SHINE" in capsys.readouterr().out


@pytest.mark.parametrize("changes", [c for c in deq_options.OPTIONS.values() if c], ids=str)
def test_each_option_changes_the_shipped_recipe_and_builds(changes):
    """What is shipped has none of them by chance."""
    settings = deq_options.recipe("deq_digits_unbounded")[0]
    changed = dataclasses.replace(settings, **changes)
    assert changed != settings
    network = build_network(changed, ImageData("digits").info)
    assert DEQClassifierModule.of(network, changed).options.correction_steps == changed.correction_steps


def test_well_posed_cells_beside_others(tmp_path, monkeypatch, capsys):
    chosen = [("well posed", "exact gradient"), ("explicit", "layers with the same number of parameters")]
    monkeypatch.setattr(well_posed, "ROWS", {name: well_posed.ROWS[name] for name in chosen})
    monkeypatch.setattr(sys, "argv", ["well_posed.py", "--quick", "--json", str(tmp_path / "w.json")])
    assert well_posed.main() == 0
    equilibrium, explicit = json.loads((tmp_path / "w.json").read_text())["rows"]
    assert equilibrium["unconverged"] == explicit["unconverged"] == [0.0]
    assert 1 < equilibrium["nfe"][0] <= 12
    assert explicit["nfe"] == [1.0]
    assert "not converged" in capsys.readouterr().out


def test_a_step_of_well_posed_equilibria_beside_one_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["well_posed_step.py", "--quick", "--json", str(tmp_path / "s.json")])
    assert well_posed_step.main() == 0
    told = json.loads((tmp_path / "s.json").read_text())
    through, hand = told["rows"]
    stages = 2
    assert (through["evaluations"], through["products"]) == (hand["evaluations"], hand["products"])
    # By hand: the stem, evaluations, injections, norms (V v and V^T u); through DEQ one evaluation on a tape more.
    assert hand["convolutions"] == 1 + hand["evaluations"] + 3 * stages
    assert through["convolutions"] == hand["convolutions"] + stages
    assert through["input_gradients"] == hand["input_gradients"] + stages
    assert through["kernel_gradients"] == hand["kernel_gradients"]
    assert told["checks"][1]["kept"]
    assert "gradients of kernels" in capsys.readouterr().out


def test_choices_of_deq_cifar(tmp_path, monkeypatch, capsys):
    chosen = [("recipe", "as it is"), ("solves", "4 NFE in training")]
    monkeypatch.setattr(cifar_choices, "CHOICES", {name: cifar_choices.CHOICES[name] for name in chosen})
    report, figure = tmp_path / "c.json", tmp_path / "c.png"
    monkeypatch.setattr(sys, "argv", ["cifar_choices.py", "--quick", "--json", str(report), "--plot", str(figure)])
    assert cifar_choices.main() == 0
    rows = json.loads(report.read_text())["rows"]
    assert [row["nfe_train"] for row in rows] == [12, 4]
    assert all(len(row["losses"]) == 3 and 0 <= row["fixed_point"] <= 1 for row in rows)
    assert figure.stat().st_size > 10_000
    assert "4 NFE in training" in capsys.readouterr().out


def test_choices_of_well_posed_networks(tmp_path, monkeypatch, capsys):
    changed = [name for name, choice in well_posed_cifar.CHOICES.items() if choice.change is not None]
    chosen = [
        ("recipe", "narrower, not flip-equivariant"),
        ("explicit", "layers with the same number of parameters"),
        *changed,
    ]
    monkeypatch.setattr(well_posed_cifar, "CHOICES", {name: well_posed_cifar.CHOICES[name] for name in chosen})
    report, figure = tmp_path / "c.json", tmp_path / "c.png"
    monkeypatch.setattr(sys, "argv", ["well_posed_cifar.py", "--quick", "--json", str(report), "--plot", str(figure)])
    assert well_posed_cifar.main() == 0
    rows = {row["choice"]: row for row in json.loads(report.read_text())["rows"]}
    assert not rows.pop("layers with the same number of parameters")["certified"]
    assert all(row["certified"] and row["residual"] <= 1e-2 and 1 < row["nfe"] <= 12 for row in rows.values())
    assert rows["two equilibria in a stage"]["parameters"] > rows["narrower, not flip-equivariant"]["parameters"]
    assert figure.stat().st_size > 10_000
    assert "averaged map" in capsys.readouterr().out


@pytest.mark.slow
def test_chains_of_growing_length(tmp_path, monkeypatch, capsys):
    figure, report = tmp_path / "c.png", tmp_path / "c.json"
    monkeypatch.setattr(sys, "argv", ["chains.py", "--quick", "--json", str(report), "--plot", str(figure)])
    assert chains.main() == 0
    rows = json.loads(report.read_text())["rows"]
    assert [(row["length"], row["entry"]) for row in rows[:2]] == [(5, "ign_chains"), (5, "gcn_chains")]
    assert all(row["accuracy"] > 0.95 and row["nfe"] > row["length"] for row in rows if row["entry"] == "ign_chains")
    assert rows[3]["last"] < 0.8
    assert figure.stat().st_size > 5000
    assert "ign_chains" in capsys.readouterr().out


def test_the_promises_of_the_chains_are_judged_by_their_numbers():
    row = chains.Row(100, "ign_chains", 1, 0.995, 0.99, 10, 100, 1.0)
    guess = dataclasses.replace(row, entry="gcn_chains", accuracy=0.55, last=0.5)
    assert [check.kept for check in chains.checks([row, guess])] == [True, True]
    worse = [dataclasses.replace(row, accuracy=0.98), dataclasses.replace(guess, last=0.7)]
    assert [check.kept for check in chains.checks(worse)] == [False, False]


def test_unrolled_and_implicit_gradients_approach_the_exact_one():
    rows = unrolling.measure((2, 100), 1, unrolling.Problem(width=3))
    errors = {(row.method, row.steps): row.error for row in rows}
    assert errors["unrolled", 100] < 0.05 < errors["unrolled", 2]
    assert errors["implicit", 100] < 0.01 < errors["implicit", 2]
    kept = {(row.method, row.steps): row.saved_bytes for row in rows}
    assert kept["implicit", 2] == kept["implicit", 100]
    assert kept["unrolled", 100] > 25 * kept["unrolled", 2]
    assert unrolling.checks(rows)[0].kept


@pytest.mark.slow
def test_three_methods_of_meta_learning_over_the_inner_steps(tmp_path):
    rows = unrolling.measure_methods((2, 40), 1, unrolling.Problem(width=3))
    found = {(row.method, row.steps): row for row in rows}
    assert found["MAML", 40].error == 0
    assert found["first-order MAML", 40].error > 0.01
    assert found["iMAML", 40].error < 1e-6 < found["iMAML", 2].error
    assert found["MAML", 40].saved_bytes > 5 * found["MAML", 2].saved_bytes
    assert found["iMAML", 40].saved_bytes <= found["iMAML", 2].saved_bytes
    assert found["MAML", 40].query_loss == found["first-order MAML", 40].query_loss
    unrolling.plot(rows, "title", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_diagnostic_of_meta_gradients_finds_the_exact_method_exact():
    learner = MetaLearner(
        mlp(1, 6, 1, activation=torch.nn.SiLU), IMAML(1.0, LBFGS(tol=1e-6)), torch.nn.functional.mse_loss
    )
    tasks = [tuple(t[i : i + 1] for t in draw_sinusoids(3, 5, 5, torch.Generator().manual_seed(0))) for i in range(3)]
    rows = {row.method: row for row in meta_gradients.measure(learner, tasks)}
    own, first = rows["iMAML, recipe"], rows["first-order MAML, 5 steps"]
    assert own.tasks == 3
    assert own.least_cosine > 0.9999
    assert own.error < 1e-2 < first.error
    assert 0 < own.low < own.high
    assert own.stationarity < 1e-4
