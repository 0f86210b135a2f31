"""Continuous flows of images in the pipeline: bits/dim, and the baselines beside it."""

import json
import math

import numpy as np
import pytest
import torch

import deqzoo
from deqzoo.data import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.models.build import build_network
from deqzoo.models.flow import image_check
from deqzoo.models.flow.module import ImageFlowModule
from deqzoo.models.flow.pixels import dequantize
from deqzoo.training import Run
from tests.running import composed, run

SMALL = [
    "trainer.enable_progress_bar=False",
    "trainer.log_every_n_steps=1",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "data.batch_size=32",
]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_run_of_digits_has_baselines(tmp_path, monkeypatch):
    monkeypatch.setattr(image_check, "COMPONENTS", (2,))
    monkeypatch.setattr(image_check, "VARIANCES", (0.1,))
    monkeypatch.setattr(image_check, "PASSES", 1)
    words = ["model=cnf_digits", *SMALL, "model.hidden=[8]", "model.eval_divergence=rademacher"]
    finished = run(tmp_path, *words)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    check = metrics["baselines"]
    assert check["n"] == metrics["test"]["n"] == 360
    assert metrics["test"]["bits_per_dim"] > 0
    found = {name: each["bits_per_dim"] for name, each in check["baselines"].items()}
    assert found["Gaussian of full covariance"] < found["diagonal Gaussian"]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"samples.png", "training.png"}
    assert "| diagonal Gaussian |" in (tmp_path / "export" / "README.md").read_text()
    model = deqzoo.load(tmp_path / "export")
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model(x), finished.module.trained_network.eval()(x).detach())
    # The diagonal Gaussian by hand: mean and variance of each pixel's real number.
    data, network = finished.data, finished.module.trained_network
    train, test = (image_check._dequantised(data, network, part) for part in ("train", "test"))
    (y, _), (z, slope) = (image_check._values(part, network.pixels) for part in (train, test))
    mean, variance = y.mean(0), y.var(0) + 1e-3
    log_prob = -0.5 * ((z - mean) ** 2 / variance + np.log(2 * math.pi * variance)).sum(1) + slope
    gain = check["baselines"]["diagonal Gaussian"]["gain"]
    assert gain == pytest.approx(found["diagonal Gaussian"] - check["flow"], abs=1e-6)
    assert found["diagonal Gaussian"] == pytest.approx(math.log2(17) - log_prob.mean() / (64 * math.log(2)), abs=1e-6)


def test_multiscale_recipe_takes_a_step():
    """The recipe of RNODE on images of its size, made here: every parameter gets a finite gradient."""
    config = composed("model=cnf_mnist_rnode", "model.hidden=[4]", "model.blocks=1", "model.train_tol=0.1")
    info = ImageInfo(1, tuple("0123456789"), (0.13,), (0.31,), (28, 28), 256)
    network = build_network(config.model, info)
    module = ImageFlowModule(network, train_tol=0.1, kinetic_penalty=0.01, jacobian_penalty=0.01)
    step = module.step(network, (torch.rand(2, 1, 28, 28), torch.zeros(2)), "train")
    loss = step.loss + sum(factor * penalty for factor, penalty in module.penalties().values())
    loss.backward()
    assert set(module.penalties()) == {"kinetic", "jacobian"}
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in network.parameters())


@pytest.mark.parametrize("body", [pytest.param("unet", marks=pytest.mark.slow), "flat"])
def test_flow_matching_of_images_finds_more_than_their_pixels_alone(body, tmp_path, monkeypatch):
    """A short training on digits, in mixed precision, has fewer bits than the flow that moves nothing."""
    monkeypatch.setattr(image_check, "COMPONENTS", (2,))
    monkeypatch.setattr(image_check, "VARIANCES", (0.1,))
    network = {
        "unet": ["model.blocks=1", "model.hidden=[16]", "trainer.max_epochs=8"],
        "flat": ["model.hidden=[128]", "model.whiten=false", "trainer.max_epochs=40"],
    }
    words = ["model=cnf_mnist", "data=digits", f"model.body={body}", *network[body], "trainer.precision=bf16-mixed"]
    words += ["data.augment.rotate=0", "data.augment.translate=0", "model.lr=1e-2", "model.ema_decay=0"]
    words += ["trainer.enable_progress_bar=False", "trainer.log_every_n_steps=1"]
    finished = run(tmp_path, *words)
    test = json.loads((tmp_path / "metrics.json").read_text())["test"]
    network = finished.module.trained_network.eval()
    images = finished.data.images[finished.data.parts["test"]].float() / (network.levels - 1)
    x = dequantize(images, network.levels, torch.Generator().manual_seed(0))
    y, slope = network.pixels(x)
    alone = network_free_bits(y, slope, network.levels)
    assert test["bits_per_dim"] < alone - 0.05
    assert (
        "flow matching, independent coupling, trigonometric interpolant"
        in (tmp_path / "export" / "README.md").read_text()
    )


def network_free_bits(y, slope, levels):
    """Bits/dim of pixels that are standard normal after their map."""
    log_prob = -0.5 * (y.square() + math.log(2 * math.pi)).flatten(1).sum(1) + slope
    return (math.log2(levels) - log_prob / (math.log(2) * y[0].numel())).mean().item()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.body=deep", "model.body=deep: valid are flat, multiscale, unet"),
        ("model.body=unet model.hidden=[8,8,8,8]", "images of 8x8 cannot be halved 4 times"),
        ("model.body=multiscale model.objective=flow_matching", "needs one ODE from noise to data: model.body=flat"),
        ("model.interpolant=cubic", "interpolant=cubic: valid are linear, trigonometric"),
        ("model.pixels=raw", "model.pixels=raw: valid are gaussianization, logit"),
        ("model.alpha=.1", "model.alpha has no meaning for model.pixels=gaussianization"),
        ("model.pixels=logit model.alpha=1", "model.alpha=1.0 must lie between 0 and 1/2"),
        ("model.body=multiscale model.scales=5", "model.scales=5: images of 8x8 cannot be halved"),
    ],
)
def test_wrong_value_stops_the_run_before_training(override, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed("model=cnf_digits", *override.split()), tmp_path)
