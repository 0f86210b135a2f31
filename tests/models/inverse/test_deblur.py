"""Equilibria that undo a blur: the filters, a short training, what `deblur` takes and refuses."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.info import ImageInfo
from deqzoo.errors import ConfigError
from deqzoo.implicit import Anderson, Implicit, NonConvergenceWarning, Picard, Unrolled
from deqzoo.models import DeblurNetwork
from deqzoo.models.inverse.blur import GaussianBlur, psnr
from deqzoo.models.inverse.check import check_rows, check_text, fitted_filters
from deqzoo.models.inverse.config import DeblurConfig
from deqzoo.models.inverse.kind import KIND
from deqzoo.paths import zoo_path
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    *("data.name=digits", "data.batch_size=16", "data.eval_batch_size=100", "data.augment.flip=false"),
    *("model.blur_size=5", "model.blur_variance=1.0", "model.width=8", "model.depth=3", "model.lr=0.01"),
    *("trainer.limit_train_batches=70", "trainer.enable_progress_bar=False", "trainer.log_every_n_steps=5"),
]


def test_the_blur_is_a_circular_convolution_with_a_gaussian_that_keeps_the_mean():
    torch.manual_seed(0)
    blur = GaussianBlur(5, 2.0, 0.01).double()
    images = torch.rand(2, 3, 10, 7, dtype=torch.float64)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="circular")
    expected = torch.nn.functional.conv2d(padded, blur.kernel.expand(3, 1, 5, 5), groups=3)
    torch.testing.assert_close(blur(images), expected)
    assert (blur.kernel[2, 2] / blur.kernel[2, 4]).log().item() == pytest.approx(4 / (2 * 2.0), rel=1e-6)
    torch.testing.assert_close(blur(images).mean((2, 3)), images.mean((2, 3)))


def test_the_wiener_filter_solves_its_normal_equations_and_undoes_a_blur_without_noise():
    torch.manual_seed(0)
    blur, images = GaussianBlur(3, 0.5, 0.01).double(), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    restored = blur.wiener(images, 0.1)  # A^T = A
    torch.testing.assert_close(blur(blur(restored)) + 0.1 * restored, blur(images))
    torch.testing.assert_close(blur.wiener(blur(images), 0.0), images)


def test_the_same_noise_in_each_test_and_another_in_training():
    blur, images = GaussianBlur(3, 1.0, 0.05), torch.zeros(4, 3, 32, 32)
    assert torch.equal(blur.measured(images, 0), blur.measured(images, 0))
    assert not torch.equal(blur.measured(images), blur.measured(images))
    assert blur.measured(images, 0).std().item() == pytest.approx(0.05, rel=0.05)


def test_of_filters_that_with_the_power_of_the_images_is_the_best():
    torch.manual_seed(0)
    smooth = GaussianBlur(7, 3.0, 0.01)(torch.rand(50, 1, 16, 16))  # their power falls with the frequency
    blur = GaussianBlur(5, 1.0, 0.02)
    ratio, spectrum = fitted_filters(blur, smooth)
    measured = blur.measured(smooth, 1)
    constant, spectral = (psnr(blur.wiener(measured, c), smooth).mean() for c in (ratio, spectrum))
    worse = max(psnr(blur.wiener(measured, c), smooth).mean() for c in (ratio / 4, 4 * ratio))
    assert spectral > constant + 0.1
    assert constant > worse


def test_the_equilibrium_minimises_the_distances_to_the_data_and_to_the_regularised():
    torch.manual_seed(0)
    network = DeblurNetwork(1, blur_size=3, width=8, depth=2, solver=Picard(tol=1e-12, max_steps=500)).double().eval()
    with torch.no_grad():
        for layer in network.deq.cell.regulariser.layers:
            layer.weight *= 0.5
    y = torch.rand(2, 1, 8, 10, dtype=torch.float64)
    z, c = network(y).detach(), network.deq.cell.log_weight.exp().detach()
    held = network.deq.cell.regulariser(z).detach()
    free = z.clone().requires_grad_()
    distance = (network.blur(free) - y).square().sum() + c * (free - held).square().sum()
    (slope,) = torch.autograd.grad(distance, free)
    assert slope.abs().max() < 1e-10


def test_the_implicit_gradient_is_that_of_a_long_unrolled_iteration():
    torch.manual_seed(0)
    options = {"blur_size": 3, "width": 8, "depth": 2}
    implicit = DeblurNetwork(1, **options, solver=Anderson(tol=1e-12, max_steps=200), adjoint=Implicit()).double()
    with torch.no_grad():
        for layer in implicit.deq.cell.regulariser.layers:
            layer.weight *= 0.5
    unrolled = DeblurNetwork(1, **options, solver=Picard(max_steps=300, stop="never"), adjoint=Unrolled()).double()
    unrolled.load_state_dict(implicit.state_dict())
    y = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    grads = [torch.autograd.grad(n(y).square().sum(), list(n.parameters())) for n in (implicit, unrolled)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_images_of_other_sizes_and_types_and_those_that_cannot_be():
    torch.manual_seed(0)
    network = DeblurNetwork(3, width=8, depth=2).eval()
    network.deq.on_failure = "ignore"
    one = (255 * torch.rand(3, 20, 14)).to(torch.uint8)
    restored = network.deblur(one)
    assert restored.shape == one.shape
    assert restored.min() >= 0
    assert restored.max() <= 1
    torch.testing.assert_close(restored, network.deblur(one[None] / 255)[0])
    for shape, message in (
        ((3, 9, 10), "must be even"),
        ((3, 8, 12), "smaller than the blur"),
        ((1, 12, 12), r"are \(B, 3, height, width\); got"),
    ):
        with pytest.raises(ValueError, match=message):
            network.deblur(torch.rand(shape))
    with pytest.raises(ValueError, match="deblur takes an image"):
        network.deblur(torch.rand(12, 12))
    with pytest.raises(ValueError, match="float in"):
        network.deblur(torch.zeros(3, 12, 12, dtype=torch.long))
    with pytest.raises(ValueError, match=r"got up to 255: divide by 255"):
        network.deblur(torch.full((3, 12, 12), 255.0))
    with pytest.raises(ValueError, match=r"got torch.uint8: divide"):
        network(one[None])
    torch.testing.assert_close(network.deblur(one[None].double() / 255)[0], restored)  # in the network's precision
    assert network(torch.zeros(0, 3, 12, 12)).shape == (0, 3, 12, 12)


def test_the_unrolled_network_has_the_derivative_of_its_steps():
    """Its start is what it is told of the image, on which it depends, as does the learned weight."""
    torch.manual_seed(0)
    options = {"blur_size": 3, "blur_variance": 1.0, "width": 4, "depth": 2}
    network = DeblurNetwork(1, **options, solver=Picard(max_steps=3, stop="never"), adjoint=Unrolled()).double()
    y = torch.rand(2, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    cell = network.deq.cell
    x = cell.inject(y)
    z = cell.initial_state(x)
    for _ in range(3):
        z = cell(z, x)
    wanted = torch.autograd.grad(z.square().sum(), [y, *network.parameters()])
    found = torch.autograd.grad(network(y).square().sum(), [y, *network.parameters()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_restores_nearly_the_same(dtype):
    inputs, restored = read_golden(zoo_path("checkpoints") / "unrolled_deblur")
    half = deqzoo.load("unrolled_deblur", dtype=dtype)(inputs["measured"].to(dtype))
    assert half.dtype == dtype
    # Of pixels in [0, 1]: bfloat16 has three digits; measured 0.035, float16 0.004.
    torch.testing.assert_close(half.float(), restored, rtol=0, atol=5e-2)


def test_a_spoilt_image_leaves_the_others_alone_and_an_exhausted_budget_warns():
    torch.manual_seed(0)
    network = DeblurNetwork(1, blur_size=3, width=8, depth=2, solver=Anderson(tol=1e-6, max_steps=100)).eval()
    images = torch.rand(2, 1, 8, 8)
    clean = network(images)
    spoilt = images.clone()
    spoilt[0, 0, 0, 0] = torch.nan
    network.deq.on_failure = "ignore"
    found = network(spoilt)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], clean[1], rtol=1e-4, atol=1e-4)
    network.deq.on_failure, network.deq.solver = "warn", Anderson(tol=1e-7, max_steps=1)
    with pytest.warns(NonConvergenceWarning):
        network(images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur_size": 4}, "odd"),
        ({"blur_size": 9}, "needs images of at least"),
        ({"blur_size": 5, "noise": 0.0}, "must be positive"),
        ({"blur_size": 5, "width": 7}, "even"),
        ({"blur_size": 5, "depth": 1}, "at least 2"),
    ],
)
def test_settings_that_cannot_be_say_so(options, message):
    with pytest.raises(ConfigError, match=message):
        KIND.network(DeblurConfig(**options), ImageInfo(1, ("0",), (0.0,), (1.0,), (8, 8)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs, of 70 steps: the unrolled network, and the equilibrium, with it as its baseline."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    unrolled = run(folder / "unrolled", "model=unrolled_deblur", *SMALL)
    baseline = f"model.baseline={unrolled.folder / 'export'}"
    # So small a network, trained so fast, has no equilibrium at first.
    return unrolled, run(folder / "deq", "model=deq_deblur", *SMALL, baseline, "model.unrolled_steps=50")


def test_a_short_training_restores_more_than_a_filter(finished):
    for trained in finished:
        metrics = json.loads((trained.folder / "metrics.json").read_text())
        check = metrics["deblur_check"]
        assert check["n"] == metrics["test"]["n"]
        assert check["psnr"]["restored"] == pytest.approx(metrics["test"]["psnr"], abs=0.01)
        assert check["psnr"]["restored"] > check["psnr"]["wiener"] + 0.2 > check["psnr"]["blurred"]
    assert check["psnr"]["restored"] > check["baseline"]["psnr"] - 0.5
    assert check["spectral_radius"] < 1
    assert check["over_nfe"]["60"] == pytest.approx(check["over_nfe"]["12"], abs=0.05)
    assert metrics["test"]["unconverged"] == 0


def test_the_card_has_the_numbers_and_the_plots_are_drawn(finished):
    _, trained = finished
    check = json.loads((trained.folder / "metrics.json").read_text())["deblur_check"]
    rows = check_rows(check)
    assert any(f"{check['psnr']['restored']:.2f} dB" in measured for _, measured, _ in rows)
    assert any("unrolled" in what for what, _, _ in rows)
    assert "leads away" not in check_text(check)
    assert "leads away" in check_text(check | {"spectral_radius": 2.0})
    assert {"over_steps.png", "restored.png", "training.png"} <= {p.name for p in (trained.folder / "plots").iterdir()}


def test_what_was_exported_restores_the_same(finished):
    _, trained = finished
    model = deqzoo.load(str(trained.folder / "export"))
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(model(images), trained.module.trained_network.cpu().eval()(images))
    tight = deqzoo.load(str(trained.folder / "export"), tol=1e-6, max_steps=200)
    torch.testing.assert_close(tight(images), model(images), rtol=1e-2, atol=1e-2)


def test_the_recipes_are_of_equal_size_and_training():
    deq, unrolled = (composed(f"model={name}") for name in ("deq_deblur", "unrolled_deblur"))
    same = ("width", "depth", "blur_size", "blur_variance", "noise", "optimizer", "lr", "weight_decay", "schedule")
    assert [deq.model[name] for name in same] == [unrolled.model[name] for name in same]
    assert deq.trainer == unrolled.trainer
    assert deq.data == unrolled.data
