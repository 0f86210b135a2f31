"""Pictures as networks: the equation, a short training, what `picture` takes and refuses."""

import json

import pytest
import torch

import deqzoo
from deqzoo.data.info import PictureInfo
from deqzoo.errors import ConfigError
from deqzoo.implicit import Anderson, Implicit, NonConvergenceWarning, Picard, Unrolled
from deqzoo.models import ImplicitPictures, SirenPictures
from deqzoo.models.common.images import psnr_of
from deqzoo.models.picture.check import check_rows, check_text
from deqzoo.models.picture.config import ImplicitPictureConfig, SirenConfig
from deqzoo.models.picture.kind import IMPLICIT, SIREN
from deqzoo.models.picture.module import squared_errors
from deqzoo.paths import zoo_path
from deqzoo.zoo.folder import read_golden
from tests.running import composed, run

SMALL = [
    *("data.side=12", "data.batch_size=48", "trainer.max_epochs=25", "trainer.enable_progress_bar=False"),
    *("trainer.log_every_n_steps=5", "trainer.check_val_every_n_epoch=25"),
]


def test_an_equilibrium_solves_its_equation_and_its_gradient_is_that_of_a_long_iteration():
    torch.manual_seed(0)
    solved = ImplicitPictures(["a"], [6], solver=Anderson(tol=1e-12, max_steps=200), adjoint=Implicit()).double()
    unrolled = ImplicitPictures(["a"], [6], solver=Picard(max_steps=200, stop="never"), adjoint=Unrolled()).double()
    unrolled.load_state_dict(solved.state_dict())
    places = torch.rand(5, 2, dtype=torch.float64) * 2 - 1
    field = solved.fields[0][0]
    x = field.inject(places)
    z = field.deq(x)
    torch.testing.assert_close(torch.sin(z @ field.deq.cell.prepare(x).T + x), z, rtol=1e-9, atol=1e-10)
    grads = [torch.autograd.grad(n(places).square().sum(), list(n.parameters())) for n in (solved, unrolled)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_the_norm_of_a_cell_is_bounded_and_below_the_bound_left_alone(bound):
    torch.manual_seed(0)
    cell = ImplicitPictures(["a"], [16], bound=bound, gain=0.5).equilibria[0].cell
    x = torch.rand(3, 16)
    weight, norm = cell.prepare(x), torch.linalg.matrix_norm(cell.kernel, 2)
    assert 0.5 < norm < 2
    assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(min(bound, norm.item()), rel=1e-5)
    torch.testing.assert_close(weight / weight.norm(), cell.kernel / cell.kernel.norm())
    one, other = torch.rand(3, 16), torch.rand(3, 16)
    moved = (cell(one, x) - cell(other, x)).norm(dim=1)
    assert (moved <= bound * (one - other).norm(dim=1)).all()


def test_each_picture_has_a_network_of_its_own_and_colours_are_of_their_place():
    torch.manual_seed(0)
    network = SirenPictures(["a", "b"], [4, 6])
    network(torch.rand(7, 2))[:, 1, 0].sum().backward()  # width 6, picture a
    with_gradient = [bool(p.grad.any()) for row in network.fields for field in row for p in field.parameters()]
    per_field = len(with_gradient) // 4
    assert with_gradient == [False] * 2 * per_field + [True] * per_field + [False] * per_field
    drawn = network.picture("b", side=5, width=4)
    place = torch.tensor([[0.4, -0.8]])  # the middle of row 3 and column 0, of 5
    torch.testing.assert_close(drawn[:, 3, 0], network(place)[0, 0, 1].clamp(0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_represents_nearly_the_same(dtype):
    inputs, colours = read_golden(zoo_path("checkpoints") / "deq_inr")
    (places,) = inputs.values()
    half = deqzoo.load("deq_inr", dtype=dtype)(places.to(dtype))
    assert half.dtype == dtype
    assert (half.float() - colours).abs().median() < 0.02


def test_errors_and_psnr():
    colours = torch.rand(10, 2, 3)
    found = torch.stack([colours, colours + 0.1], dim=1)
    errors = squared_errors(found, colours)
    assert errors.shape == (2, 2)
    torch.testing.assert_close(errors[1], torch.full((2,), 0.01))
    torch.testing.assert_close(psnr_of(errors)[1], torch.full((2,), 20.0))


def test_the_recipes_are_of_equal_size_and_training():
    deq, siren = (composed(f"model={name}") for name in ("deq_inr", "siren"))
    info = PictureInfo(("a",), 64)
    ours, theirs = IMPLICIT.network(deq.model, info), SIREN.network(siren.model, info)
    assert len(ours.widths) == len(theirs.widths)
    for width, other in zip(ours.widths, theirs.widths, strict=True):
        assert 0.97 * theirs.parameters_of(other) < ours.parameters_of(width) <= theirs.parameters_of(other)
    assert deq.data == siren.data
    assert deq.trainer == siren.trainer


def test_what_picture_takes_and_refuses():
    network = ImplicitPictures(["a", "b"], [4]).eval()
    assert network.picture("a", 3).shape == (3, 3, 3)
    assert network.picture("a", 16).min() >= 0
    for arguments, message in (
        (("c", 4), "valid are a, b"),
        (("a", 0), "side must be at least 1"),
        (("a", 4, 5), "no network of width 5; valid are 4"),
    ):
        with pytest.raises(ValueError, match=message):
            network.picture(*arguments)
    for places in (torch.zeros(4, 3), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"places must be \(N, 2\)"):
            network(places)
    assert network(torch.zeros(0, 2)).shape == (0, 1, 2, 3)


def test_a_spoilt_place_leaves_the_others_alone_and_an_exhausted_budget_warns():
    torch.manual_seed(0)
    network = ImplicitPictures(["a"], [8], solver=Anderson(tol=1e-6, max_steps=100)).eval()
    places = torch.rand(3, 2)
    clean = network(places)
    spoilt = places.clone()
    spoilt[1, 0] = torch.nan
    with pytest.warns(NonConvergenceWarning):
        found = network(spoilt)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], clean[[0, 2]], rtol=1e-4, atol=1e-4)
    network.equilibria[0].solver = Anderson(tol=1e-7, max_steps=1)
    with pytest.warns(NonConvergenceWarning):
        network(places)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (IMPLICIT, ImplicitPictureConfig(widths=[]), "widths"),
        (IMPLICIT, ImplicitPictureConfig(widths=[8, 4]), "ascending"),
        (IMPLICIT, ImplicitPictureConfig(widths=[0, 4]), "at least 1"),
        (IMPLICIT, ImplicitPictureConfig(bound=0.0), "bound=0.0 and gain=0.5 must be positive"),
        (SIREN, SirenConfig(layers=0), "layers=0 must be at least 1"),
    ],
)
def test_settings_that_cannot_be_say_so(kind, settings, message):
    with pytest.raises(ConfigError, match=message):
        kind.network(settings, PictureInfo(("a",), 8))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Finished runs, of 75 steps: several layers, and the equilibria, with them as their baseline."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    siren = run(folder / "siren", "model=siren", "model.widths=[8,12]", *SMALL)
    baseline = f"model.baseline={siren.folder / 'export'}"
    return siren, run(folder / "deq", "model=deq_inr", "model.widths=[10,16]", baseline, *SMALL)


def test_a_short_training_represents_pictures_and_its_card_has_the_numbers(finished):
    _, trained = finished
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    check = metrics["picture_check"]
    largest = check["psnr"]["16"]
    assert sum(largest.values()) / 3 == pytest.approx(metrics["test"]["psnr"], abs=0.01)
    _, colours = next(iter(trained.data.test_dataloader()))
    flat = psnr_of(squared_errors(colours.mean(0).expand(len(colours), 1, 3, 3), colours)).mean()  # one colour each
    assert metrics["test"]["psnr"] > flat + 2
    assert check["n"] == metrics["test"]["n"] == 144
    assert check["converged"] == pytest.approx(1, abs=0.01)
    assert check["over_steps"]["16"]["64"] == pytest.approx(metrics["test"]["psnr"], abs=0.1)
    rows = check_rows(check)
    assert any(f"mean {metrics['test']['psnr']:.2f} dB" in told for _, told, _ in rows)
    gap = largest["china"] - check["baseline"]["psnr"]["12"]["china"]
    assert any(f"china {gap:+.2f} dB" in told for _, told, _ in rows)
    assert "144 pixels" in check_text(check)


def test_plots_are_drawn_and_the_export_gives_the_same_pictures(finished):
    for trained in finished:
        model = deqzoo.load(str(trained.folder / "export"))
        kept = trained.module.trained_network.cpu().eval()
        torch.testing.assert_close(model.picture("flower", 12), kept.picture("flower", 12))
        drawn = {path.name for path in (trained.folder / "plots").iterdir()}
        assert {"pictures.png", "over_parameters.png", "training.png"} <= drawn
    assert "over_steps.png" in drawn
