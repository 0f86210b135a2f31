"""The classifier's LightningModule, by hand and without Hydra."""

import copy

import pytest
import torch
from lightning.pytorch import Trainer

from deqzoo.config import DEQClassifierConfig
from deqzoo.data import ImageData
from deqzoo.models import Classifier, DEQClassifierModule, ImageInfo, build_network
from deqzoo.models.deq_check import deq_check, flop_share, parameter_share
from deqzoo.models.jacobian import jacobian_penalty
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
    settings = {"widths": [8], "groups": 4, "solver_options": {"tol": 1e-3, "max_steps": 20}} | settings
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
    module.average.update_parameters(module.network)  # the first update copies
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
    assert flop_share(model, images) == pytest.approx(12 * in_cell / (12 * in_cell + stem + head))


def test_deq_check_measures_what_it_says():
    model = network().eval()
    own = model.equilibria[0].solver
    result = deq_check(model, [batch(), batch()], limit=20)
    assert result["n"] == 20
    assert model.equilibria[0].solver is own
    assert 0 < result["median_residual"] <= 1e-2
    assert 0 <= result["accuracy_one_step"] <= 1
    assert abs(result["accuracy_tight"] - result["accuracy_12_nfe"]) <= 0.1
