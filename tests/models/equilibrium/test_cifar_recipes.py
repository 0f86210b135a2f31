"""The DEQ recipes of CIFAR-10 and their explicit baselines: sizes, short runs on stand-ins, one batch learnt."""

import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F

import deqzoo
from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.implicit import Picard
from deqzoo.models import build_network
from deqzoo.models.common.shares import flop_share, parameter_share
from deqzoo.training.history import read_history
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

BASELINES = {"deq_cifar_unbounded": "residual_cifar"}
EXPLICIT = ["residual_cifar", "residual_cifar_small"]
SMALL = [
    "data=digits",
    "data.batch_size=64",
    "data.eval_batch_size=360",
    "data.augment.crop=0",
    "data.augment.flip=false",
    "model.widths=[8,16]",
    "model.stem=8",
    "model.ema_decay=0",
    "trainer.enable_progress_bar=False",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=3",
    "trainer.log_every_n_steps=1",
]


def network_of(*words):
    """The network of a recipe, for CIFAR-10, freshly initialised."""
    torch.manual_seed(0)
    info = ImageInfo(3, list("0123456789"), [0.5] * 3, [0.25] * 3)
    return build_network(OmegaConf.to_object(composed(*words).model), info)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of each recipe on small images with few channels; the baselines first."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqzoo.plots.budget.STEPS", (1, 3))
        patch.setattr("deqzoo.models.equilibrium.kind.DRAWN", 50)
        runs = {baseline: run(folder / baseline, f"model={baseline}", *SMALL) for baseline in EXPLICIT}
        for name, baseline in BASELINES.items():
            words = ["model.train_max_steps=7", f"model.baseline={folder / baseline / 'export'}"]
            runs[name] = run(folder / name, f"model={name}", *SMALL, *words)
        return runs


@pytest.mark.parametrize("name", [*BASELINES, *EXPLICIT])
def test_every_recipe_trains(name, finished):
    trained = finished[name]
    assert trained.metrics["test"]["n"] == 360
    network = trained.module.network
    F.cross_entropy(network(torch.rand(4, 1, 8, 8)), torch.arange(4)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name
    inputs, output = read_golden(trained.folder / "export")
    torch.testing.assert_close(deqzoo.load(trained.folder / "export")(**inputs), output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BASELINES)
def test_solves_are_short_in_training_and_the_card_has_plots_and_baseline(name, finished):
    trained = finished[name]
    assert trained.metrics["test"]["nfe"] <= 12
    assert max(row["train/nfe"] for row in read_history(trained.folder / "metrics.csv") if "train/nfe" in row) <= 8
    drawn = {path.name for path in (trained.folder / "plots").iterdir()}
    assert drawn == {"accuracy_over_nfe.png", "residuals.png", "training.png"}
    baseline = finished[BASELINES[name]]
    assert trained.metrics["deq_check"]["baseline"]["accuracy"] == baseline.metrics["test"]["accuracy"]
    card = (trained.folder / "export" / "README.md").read_text()
    assert f"| baseline `{baseline.folder / 'export'}` ({baseline.metrics['parameters']:,} parameters" in card


@pytest.mark.parametrize(("name", "limit"), [("deq_cifar_unbounded", 4_000_000)])
def test_sizes(name, limit):
    """As many parameters as allowed and as the baseline has; four fifths of them, and of the FLOPs, in cells."""
    network, baseline = network_of(f"model={name}").eval(), network_of(f"model={BASELINES[name]}")
    count = sum(p.numel() for p in network.parameters())
    assert count <= limit
    assert count == sum(p.numel() for p in baseline.parameters())
    assert parameter_share(network) > 0.8
    cells = [layer.cell for layer in network.equilibria]
    assert flop_share(network, cells, torch.rand(1, 3, 32, 32), Picard(tol=0.0, max_steps=11)) > 0.8


@pytest.mark.parametrize("name", [*BASELINES, *EXPLICIT])
def test_one_batch_is_learnt_by_heart(name):
    network = network_of(f"model={name}", "model.widths=[16,32]", "model.stem=16")
    images, labels = torch.rand(10, 3, 12, 12), torch.arange(10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.3


@pytest.mark.parametrize(
    ("entry", "setting"),
    [
        ("deq_cifar_unbounded", "cell=liquid"),
        ("deq_cifar_unbounded", "entry_norm=layer"),
        ("residual_cifar", "depth=0"),
        ("residual_cifar", "groups=7"),
    ],
)
def test_wrong_settings_are_told_by_name(entry, setting):
    with pytest.raises(ConfigError, match=setting.partition("=")[0]):
        network_of(f"model={entry}", f"model.{setting}")
