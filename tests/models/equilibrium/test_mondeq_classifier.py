"""monDEQ classifiers in the pipeline: trained, tested, exported, loaded, compared; and what they cannot do."""

import json

import pytest
import torch

import deqzoo
from deqzoo.errors import ConfigError
from deqzoo.implicit import Anderson, ForwardBackward, PeacemanRachford, Picard
from deqzoo.models.common.shares import flop_share, parameter_share
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo import CheckpointError
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    "data=digits",
    "data.batch_size=128",
    "data.eval_batch_size=360",
    "model.grid=2",
    "trainer.enable_progress_bar=False",
    "trainer.max_epochs=1",
    "trainer.log_every_n_steps=1",
]
RECIPES = {
    "mondeq_mnist": [*SMALL, "model.widths=[4]"],
    "mondeq_cifar": [*SMALL, "model.widths=[4]", "trainer.max_steps=2"],
    "mondeq_cifar_large": [*SMALL, "model.widths=[4,4,4]", "trainer.max_steps=2"],
    "conv_mnist": [*SMALL, "model.width=4"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of each recipe, on small images with few channels."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqzoo.plots.budget.STEPS", (1, 3))
        patch.setattr("deqzoo.models.equilibrium.kind.DRAWN", 50)
        folder = tmp_path_factory.mktemp("runs")
        return {name: run(folder / name, f"model={name}", *words) for name, words in RECIPES.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name, finished):
    trained = finished[name]
    assert trained.metrics["test"]["n"] == 360
    losses = [row["train/loss"] for row in read_history(trained.folder / "metrics.csv") if "train/loss" in row]
    assert losses
    assert max(losses) < 4
    network = trained.module.network
    torch.nn.functional.cross_entropy(network(torch.rand(4, 1, 8, 8)), torch.arange(4)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


def test_the_tolerance_in_training_is_another_one(tmp_path):
    words = [*RECIPES["mondeq_mnist"], "trainer.limit_train_batches=1", "trainer.limit_test_batches=1"]
    loose, tight = (
        run(tmp_path / tol, "model=mondeq_mnist", *words, "model.solver_options.tol=1e-4", f"model.train_tol={tol}")
        for tol in ("1e-1", "null")
    )
    nfe = {
        trained: [
            {row[name] for row in read_history(trained.folder / "metrics.csv") if name in row}
            for name in ("train/nfe", "val/nfe")
        ]
        for trained in (loose, tight)
    }
    assert max(nfe[loose][0]) < min(nfe[tight][0])
    assert min(nfe[loose][1]) > max(nfe[loose][0])
    assert loose.module.network.equilibria[0].solver.tol == 1e-4


def test_solves_are_logged_drawn_and_checked(finished):
    trained = finished["mondeq_mnist"]
    columns = set().union(*read_history(trained.folder / "metrics.csv"))
    assert {"train/nfe", "train/nfe_backward", "train/residual_backward", "val/unconverged"} <= columns
    assert {path.name for path in (trained.folder / "plots").iterdir()} == {
        "accuracy_over_nfe.png",
        "residuals.png",
        "training.png",
    }
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    assert metrics["test"]["unconverged"] == 0
    network = trained.module.trained_network.eval()
    images, _ = next(iter(trained.data.test_dataloader()))
    with torch.no_grad():
        (layer,) = network.equilibria
        x = network.stem((images - network.mean) / network.std)
        (z,) = layer(x)
        (image,) = layer.cell((z,), x)
        true = (image - z).flatten(1).norm(dim=1) / image.flatten(1).norm(dim=1)
    # not the splitting's own residual, which is the step of another variable
    assert metrics["deq_check"]["median_residual"] == pytest.approx(true.median().item(), rel=1e-3)
    assert metrics["deq_check"]["n"] == 360
    card = (trained.folder / "export" / "README.md").read_text()
    for words in ("peaceman_rachford (alpha=0.7, tol=0.002", "margin of monotonicity | 1", "each cell applied once"):
        assert words in card


def test_explicit_baseline_has_no_equilibrium_to_check(finished):
    trained = finished["conv_mnist"]
    assert "deq_check" not in trained.metrics
    card = (trained.folder / "export" / "README.md").read_text()
    assert not [line for line in card.splitlines() if "equilibrium" in line and not line.startswith("| paper")]
    assert "nfe" not in trained.metrics["test"]
    with pytest.raises(CheckpointError, match="a model of kind conv_classifier has no solver to choose"):
        deqzoo.load(trained.folder / "export", tol=1e-3)


def test_export_loads_with_another_solver(finished):
    folder = finished["mondeq_mnist"].folder / "export"
    inputs, output = read_golden(folder)
    model = deqzoo.load(folder)
    torch.testing.assert_close(model(**inputs), output, rtol=1e-4, atol=1e-5)
    assert model.body.solver == PeacemanRachford(alpha=0.7, tol=2e-3, max_steps=300)
    for name, kind in (("anderson", Anderson), ("forward_backward", ForwardBackward)):
        other = deqzoo.load(folder, solver=name, tol=1e-5)
        assert other.body.solver == kind(tol=1e-5, max_steps=300)
        torch.testing.assert_close(other(**inputs), output, rtol=0, atol=0.1)
    with pytest.raises(
        CheckpointError, match=r"model.solver=newton_raphson: valid are anderson, broyden, forward_back"
    ):
        deqzoo.load(folder, solver="newton_raphson")


def test_card_names_the_trained_baseline(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("deqzoo.plots.budget.STEPS", (1,))
    exported = finished["conv_mnist"].folder / "export"
    words = [*RECIPES["mondeq_mnist"], "trainer.max_steps=1", f"model.baseline={exported}"]
    trained = run(tmp_path, "model=mondeq_mnist", *words)
    metrics = json.loads((exported / "metrics.json").read_text())
    assert trained.metrics["deq_check"]["baseline"]["accuracy"] == metrics["test"]["accuracy"]
    size = f"{metrics['parameters']:,} parameters, {metrics['steps']:,} steps"
    assert f"| baseline `{exported}` ({size})" in (tmp_path / "export" / "README.md").read_text()


def test_published_sizes(tmp_path):
    """84K; 170K, 172K with the paper's larger head; 1M with tiers, less 46K that its head has for the border."""
    counts = {}
    for name in RECIPES:
        network = Run(composed(f"model={name}"), tmp_path).module.network
        counts[name] = sum(p.numel() for p in network.parameters())
        if name != "conv_mnist":
            assert parameter_share(network) > 0.8
    assert counts == {
        "mondeq_mnist": 84_620,
        "mondeq_cifar": 169_660,
        "mondeq_cifar_large": 968_466,
        "conv_mnist": 84_618,
    }


def test_fully_connected_body(tmp_path):
    words = [*SMALL, "model.body=fc", "model.widths=[16]", "trainer.max_steps=2"]
    trained = Run(composed("model=mondeq_mnist", *words), tmp_path)
    trained.fit()
    network = trained.module.network
    assert network.stem[1].in_features == 64
    cells = [layer.cell for layer in network.equilibria]
    assert flop_share(network.eval(), cells, torch.rand(4, 1, 8, 8), Picard(tol=0.0, max_steps=11)) > 0.2


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.body=resnet", "model.body=resnet: valid are conv, fc"),
        ("model.widths=[]", r"model.widths=\[\]: conv takes one width per tier, fc takes one"),
        ("model.margin=0", r"model.margin=0.0 must be above 0"),
        ("model.solver=dopri5", r"model.solver=dopri5: valid are anderson, .*forward_backward, .*peaceman_rachford"),
        ("model.solver_options.alpha=-1", r"model.solver=peaceman_rachford: .*alpha above 0, got -1"),
        ("model.solver_options.depth=3", r"model.solver=peaceman_rachford: .*no option depth. Valid: tol"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=mondeq_mnist", *SMALL, override), tmp_path)


def test_a_splitting_is_no_solver_of_other_deqs(tmp_path):
    with pytest.raises(ConfigError, match=r"model.solver=peaceman_rachford: valid are anderson, broyden, newton"):
        Run(composed("model=deq_digits", "model.solver=peaceman_rachford"), tmp_path)
