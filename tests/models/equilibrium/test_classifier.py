"""The classifier's LightningModule, by hand and without Hydra."""

import copy

import pytest
import torch
from lightning.pytorch import Trainer

from deqzoo.data import ImageData
from deqzoo.implicit import Picard
from deqzoo.models import Classifier, DEQClassifierModule, ImageInfo, build_network
from deqzoo.models.common.deq_module import jacobian_penalty
from deqzoo.models.common.shares import flop_share, parameter_share
from deqzoo.models.equilibrium.check import check_rows, deq_check
from deqzoo.models.equilibrium.config import DEQClassifierConfig
from deqzoo.nn import DEQ

QUIET = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "enable_checkpointing": False,
}


def network(**settings):
    torch.manual_seed(0)
    data = ImageData("digits")
    settings = {"widths": [8], "entry_groups": 4, "solver_options": {"tol": 1e-3, "max_steps": 20}} | settings
    settings["cell_options"] = {"groups": 4}
    return build_network(DEQClassifierConfig(**settings), ImageInfo(1, data.classes, data.mean, data.std))


def batch(size=16):
    return torch.rand(size, 1, 8, 8), torch.randint(10, (size,))


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_trains_without_hydra(tmp_path):
    module = Classifier(network(), lr=1e-2, label_smoothing=0.1, ema_decay=0.5)
    before = copy.deepcopy(module.state_dict())
    trainer = Trainer(max_steps=4, accelerator="cpu", default_root_dir=tmp_path, **QUIET)
    trainer.fit(module, datamodule=ImageData("digits", batch_size=64))
    logged = trainer.callback_metrics
    for name in ("loss", "accuracy", "nfe", "residual", "unconverged", "nfe_backward", "residual_backward"):
        assert torch.isfinite(logged[f"train/{name}"]), name
    assert 1 <= logged["train/nfe"] <= 21
    assert logged["train/nfe_backward"] >= 1
    moved = [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
    assert len([name for name in moved if name.startswith("network.")]) > 4
    test = trainer.test(module, datamodule=ImageData("digits"), verbose=False)[0]  # under inference_mode
    assert test["test/n"] == 360


def test_gradient_reaches_every_parameter():
    module = network(widths=[8, 12])
    images, labels = batch()
    torch.nn.functional.cross_entropy(module(images), labels).backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_moving_average_is_what_is_tested_and_exported():
    module = Classifier(network(), ema_decay=0.9)
    assert module.trained_network is module.average.module
    assert Classifier(network()).trained_network.__class__ is network().__class__
    with torch.no_grad():
        for p in module.network.parameters():
            p.zero_()
    module.average.update(module.network)  # the first update copies
    assert all(not p.any() for p in module.trained_network.parameters())
    with pytest.raises(ValueError, match="ema_decay"):
        Classifier(network(), ema_decay=1.0)


def test_hyperparameters_are_plain():
    saved = dict(DEQClassifierModule(network(), lr=0.2).hparams)
    assert saved["lr"] == 0.2
    assert "network" not in saved
    assert all(isinstance(value, str | int | float | list | dict | None) for value in saved.values())


def test_jacobian_penalty_is_the_mean_square_of_the_jacobian():
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(0.3 * torch.randn(5, 5))

        def forward(self, z, x):
            return z @ self.weight.T + x

    deq = DEQ(Linear())
    x = torch.zeros(20_000, 5)
    penalty = jacobian_penalty(deq, x, deq(x))
    expected = deq.cell.weight.square().sum() / 5
    torch.testing.assert_close(penalty, expected, rtol=0.02, atol=0)
    (gradient,) = torch.autograd.grad(penalty, deq.cell.weight)
    torch.testing.assert_close(gradient, 2 * deq.cell.weight.detach() / 5, rtol=0.1, atol=0.02)


def test_jacobian_penalty_on_part_of_the_batch_is_that_of_the_part():
    deq = DEQ(torch.nn.Bilinear(3, 3, 3))
    x, z = torch.randn(6, 3), torch.randn(6, 3)
    torch.manual_seed(1)
    part = jacobian_penalty(deq, x, z, samples=2)
    torch.manual_seed(1)
    torch.testing.assert_close(part, jacobian_penalty(deq, x[:2], z[:2]))


def test_jacobian_penalty_joins_the_training_loss(tmp_path):
    module = DEQClassifierModule(network(widths=[8, 8]), jacobian_penalty=0.5)
    plain = Classifier(network(widths=[8, 8]))
    for trained in (module, plain):
        trained.log = trained.log_dict = lambda *args, **kwargs: None
        trained._when = str
    images, labels = batch()
    loss, without = module.training_step((images, labels), 0), plain.training_step((images, labels), 0)
    assert loss > without
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
    module.eval()(images)
    assert module.penalties() == {}


def test_shares_of_the_equilibrium():
    model = network().eval()
    cell = sum(p.numel() for p in model.equilibria[0].cell.parameters())
    assert parameter_share(model) == cell / sum(p.numel() for p in model.parameters())
    images, _ = batch()
    in_cell, stem, head = 2 * 64 * 9 * 8 * 8, 64 * 9 * 1 * 8, 8 * 10  # products of one image
    share = flop_share(model, [model.equilibria[0].cell], images, Picard(tol=0.0, max_steps=11))
    assert share == pytest.approx(12 * in_cell / (12 * in_cell + stem + head))


def test_the_check_of_cells_that_nothing_bounds():
    model = network().eval()
    own = model.equilibria[0].solver
    batches = [batch(), batch(4)]
    result = deq_check(model, batches)
    assert result["n"] == 20
    assert model.equilibria[0].solver is own
    assert result["parameter_share"] == 1 - (8 * 2 + 8 * 10 + 10) / sum(p.numel() for p in model.parameters())
    assert result["state_share"] == parameter_share(model)
    assert result["certified"] is None
    rows = [row[0] for row in check_rows(result)]
    assert not [row for row in rows if "certified" in row]
    assert "counts as a DEQ" in rows
    older = {name: result[name] for name in ("parameter_share", "accuracy_tight", "n", "passed")}
    assert [row[0] for row in check_rows(older)] == [
        "parameters in the equilibria and their injections",
        "accuracy at tolerance 1e-4",
    ]
    assert 0 < result["median_residual"] <= result["largest_residual"]
    with torch.no_grad():
        right = torch.cat([model(images).argmax(1) == labels for images, labels in batches])
        (layer,), x = model.equilibria, model.entries[0](model.stem((batches[1][0] - model.mean) / model.std))
        z = layer(x)
    assert result["accuracy"] == right.double().mean()
    worst = ((layer.cell(z, x) - z).flatten(1).norm(dim=1) / layer.cell(z, x).flatten(1).norm(dim=1)).max()
    assert result["largest_residual"] >= worst * 0.99


def test_samples_that_miss_the_equilibrium_do_not_count():
    model = network(solver_options={"tol": 1e-3, "max_steps": 1}).eval()
    result = deq_check(model, [batch()])
    assert result["unconverged"] == 1
    assert not result["passed"]
