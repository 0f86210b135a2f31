"""Classifiers of nodes in the pipeline: trained, projected, exported, loaded; and what they cannot do."""

import json

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

import deqzoo
from deqzoo.data import ChainData, GraphInfo
from deqzoo.errors import ConfigError
from deqzoo.implicit import Picard
from deqzoo.models import build_network
from deqzoo.models.graph.config import GraphConvolutionConfig, ImplicitGraphConfig
from deqzoo.models.graph.module import GraphClassifier
from deqzoo.training import Run
from deqzoo.training.history import read_history
from deqzoo.zoo import CheckpointError
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    "model=ign_chains",
    "model.hidden=4",
    "data.length=12",
    "data.chains_per_class=5",
    "data.features=5",
    "data.train_size=20",
    "data.val_size=20",
    "data.batch_size=20",
    "data.repeats=5",
    "trainer.enable_progress_bar=False",
    "trainer.max_epochs=4",
]
INFO = GraphInfo(5, ("a", "b"))


def settings(**options):
    return ImplicitGraphConfig(hidden=4, solver_options={"tol": 1e-3, "max_steps": 100}, **options)


def chains(**options):
    return ChainData("chains", length=12, chains_per_class=5, features=5, train_size=20, val_size=20, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of 20 steps."""
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("runs") / "a", *SMALL, "model.ema_decay=0.5")


def test_the_class_reaches_the_end_of_the_chain(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["test"]["n"] == 80
    assert metrics["test"]["accuracy"] == 1
    check = metrics["graph_check"]
    assert [(quarter["first"], quarter["last"]) for quarter in check["quarters"]] == [(0, 2), (3, 5), (6, 8), (9, 11)]
    assert all(quarter["accuracy"] == 1 for quarter in check["quarters"])
    assert check["truncated"]["1"] < 0.8 < check["truncated"]["50"]
    assert check["norm"] * check["eigenvalue"] <= 0.99 + 1e-5
    assert check["cell_parameters"] == 4 * 4
    card = (finished.folder / "export" / "README.md").read_text()
    for words in ("80 test nodes of `chains`", "kappa = 0.99", "accuracy 9 to 11 hops", "the cell applied once"):
        assert words in card
    drawn = {path.name for path in (finished.folder / "plots").iterdir()}
    assert drawn == {"accuracy_over_hops.png", "accuracy_over_nfe.png", "training.png"}
    columns = set().union(*read_history(finished.folder / "metrics.csv"))
    assert {"train/nfe", "train/nfe_backward", "train/residual", "val/accuracy", "val/unconverged"} <= columns


def test_export_loads_with_another_solver_tolerance_and_limit(finished):
    folder = finished.folder / "export"
    inputs, output = read_golden(folder)
    model = deqzoo.load(folder)
    assert model.classes == ("class 0", "class 1")
    torch.testing.assert_close(model(**inputs), output, rtol=1e-4, atol=1e-5)
    other = deqzoo.load(folder, solver="picard", tol=1e-6, max_steps=500)
    assert other.deq.solver == Picard(tol=1e-6, max_steps=500)
    torch.testing.assert_close(other(**inputs), output, rtol=0, atol=0.05)
    with pytest.raises(CheckpointError, match=r"model\.solver=tsit5: valid are anderson, broyden"):
        deqzoo.load(folder, solver="tsit5")


def test_the_explicit_baseline_knows_no_more_than_its_depth(tmp_path):
    baseline = run(tmp_path, *SMALL, "model=gcn_chains", "model.hidden=4", "model.depth=2")
    assert baseline.metrics["test"]["accuracy"] < 0.8
    assert "graph_check" not in baseline.metrics
    model = deqzoo.load(baseline.folder / "export")
    inputs, output = read_golden(baseline.folder / "export")
    torch.testing.assert_close(model(**inputs), output, rtol=1e-4, atol=1e-5)
    with pytest.raises(CheckpointError, match="has no solver to choose"):
        deqzoo.load(baseline.folder / "export", tol=1e-3)


def test_a_shipped_baseline_stands_in_the_card(finished, tmp_path):
    override = f"model.baseline={finished.folder / 'export'}"  # any classifier of nodes will do
    entry = run(tmp_path, *SMALL, "trainer.max_epochs=1", "trainer.limit_train_batches=1", override)
    baseline = entry.metrics["graph_check"]["baseline"]
    assert baseline["accuracy"] == finished.metrics["test"]["accuracy"]
    assert len(baseline["quarters"]) == 4
    assert "explicit baseline" in (entry.folder / "export" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_weights_are_projected_after_each_step(tmp_path):
    torch.manual_seed(0)
    module = GraphClassifier(build_network(settings(kappa=0.5), INFO), lr=0.5, ema_decay=0.5)
    norms = []

    class Watch(Callback):
        def on_train_batch_end(self, *_):
            for network in (module.network, module.trained_network):
                norms.append(network.deq.cell.weight.abs().sum(1).max().item())

    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_checkpointing", "logger"), False)
    trainer = Trainer(max_steps=3, accelerator="cpu", callbacks=[Watch()], default_root_dir=tmp_path, **quiet)
    before = module.network.deq.cell.weight.clone()
    trainer.fit(module, datamodule=chains(batch_size=20, repeats=3))
    assert len(norms) == 6
    assert max(norms) <= 0.5 + 1e-6
    assert not torch.equal(module.network.deq.cell.weight, before)


@pytest.mark.parametrize(("kind", "steps"), [(settings(), 20), (GraphConvolutionConfig(hidden=16, depth=3), 40)])
def test_gradient_reaches_every_parameter_and_one_batch_can_be_learned(kind, steps):
    torch.manual_seed(0)
    network, data = build_network(kind, INFO), chains(batch_size=20)
    data.setup()
    features, edges, nodes, labels = next(iter(data.train_dataloader()))
    known = nodes[nodes % 12 < 3], labels[nodes % 12 < 3]  # the others are for the implicit network alone
    nodes, labels = (nodes, labels) if kind.kind == "implicit_graph" else known
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    for step in range(steps):
        loss = torch.nn.functional.cross_entropy(network(features, edges)[nodes], labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
            assert all(torch.isfinite(p.grad).all() for p in network.parameters())
        optimizer.step()
        if hasattr(network, "project"):
            network.project()
    assert loss < 0.2


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model.kappa=1.5"], r"model\.kappa must lie in \(0, 1\), got 1.5"),
        (["model.solver=newtn"], r"model\.solver=newtn: valid are anderson"),
        (["model=gcn_chains", "model.depth=0"], r"model\.depth must be at least 1"),
        (["data=digits"], r"data=digits has images; model=ign_chains .* needs nodes"),
        (["model=deq_digits", "data=chains"], r"data=chains has nodes; model=deq_digits .* needs images"),
    ],
)
def test_wrong_value_stops_the_run_before_training(overrides, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=ign_chains", *overrides), tmp_path)
