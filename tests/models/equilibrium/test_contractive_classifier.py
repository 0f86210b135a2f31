"""The kind of well-posed classifiers: each body trains, loads and tells whether its equilibrium is reached."""

import math

import pytest
import torch

import deqzoo
from deqzoo.data.info import ImageInfo
from deqzoo.implicit import Picard
from deqzoo.models import build_network, contractive_net
from deqzoo.models.common.metrics import METRICS
from deqzoo.models.equilibrium.check import check_rows, deq_check
from deqzoo.nn import use_solver
from deqzoo.training.report import report
from deqzoo.zoo.cards import model_card
from deqzoo.zoo.folder import read_folder, read_golden
from tests.running import SMALL, composed, run

WORDS = [*SMALL, "model.widths=[8,12]", "trainer.max_epochs=2", "trainer.limit_train_batches=4", "data.batch_size=64"]


@pytest.fixture(scope="module", params=["equilibrium", "once", "explicit"])
def finished(request, tmp_path_factory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqzoo.plots.budget.STEPS", (1, 3))
        patch.setattr("deqzoo.models.equilibrium.kind.DRAWN", 50)
        return run(tmp_path_factory.mktemp("runs") / request.param, *WORDS, f"model.body={request.param}")


def test_every_body_trains_and_loads(finished):
    assert finished.metrics["steps"] == 8
    inputs, output = read_golden(finished.folder / "export")
    torch.testing.assert_close(deqzoo.load(finished.folder / "export")(**inputs), output, rtol=1e-4, atol=1e-4)
    assert (finished.folder / "plots" / "training.png").is_file()


def test_the_run_says_whether_all_samples_converged(finished, capsys):
    report(finished.metrics, finished.folder, finished.kind, trained=True)
    told = " ".join(capsys.readouterr().out.split())
    assert ("all 360 samples converged" in told) == (finished.settings.model.body == "equilibrium")
    if check := finished.metrics["deq_check"]:
        others = check["disagreements"]
        for words in (
            f"residual {check['median_residual']:.1e} in the median, {check['largest_residual']:.1e} at most",
            f"accuracy {100 * check['accuracy_tight']:.2f} % at tolerance 1e-4",
            f"{100 * check['accuracy_one_step']:.2f} % with each cell applied once",
            f"a second solver, to 1e-5, labels {others} of 360 otherwise",
        ):
            assert words in told
    card = (finished.folder / "export" / "README.md").read_text()
    row = "| converged to 1e-2 within 12 NFE | 360 of 360 | all, within 12 NFE |"
    assert (row in card) == ("samples converged (" in told)


def test_mirrored_test_images_are_a_second_number(finished, tmp_path, capsys):
    body = f"model.body={finished.settings.model.body}"
    words = [*WORDS, body, "mode=test", f"ckpt={finished.folder / 'export'}", "model.flip_at_test=true"]
    tested = run(tmp_path, *words)
    found, plain = tested.metrics["test"], finished.metrics["test"]
    assert found["accuracy"] == pytest.approx(plain["accuracy"])
    assert found.get("residual") == pytest.approx(plain.get("residual"))  # of the images as they are
    assert "accuracy_flip" not in plain
    model = deqzoo.load(finished.folder / "export")
    right = []
    with torch.no_grad():
        for images, labels in tested.data.test_dataloader():
            right.append((model(images) + model(images.flip(3))).argmax(1) == labels)
    assert found["accuracy_flip"] == pytest.approx(torch.cat(right).double().mean().item(), abs=1.5 / 360)
    report(tested.metrics, tested.folder, tested.kind, trained=False)
    told = " ".join(capsys.readouterr().out.split())
    assert f"reached {plain['accuracy']:.2%}".replace("%", " %") in told
    assert f"mirror image {found['accuracy_flip']:.2%}".replace("%", " %") in told
    card = model_card(read_folder(finished.folder / "export").config, tested.metrics)
    assert f"| {METRICS['accuracy_flip'].label} | {METRICS['accuracy_flip'].show(found['accuracy_flip'])} |" in card


def network():
    torch.manual_seed(0)
    return contractive_net((16, 16), ["a", "b", "c"], [0.5] * 3, [0.3] * 3, widths=[16, 24]).eval()


def labelled(n):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(n)), torch.arange(n) % 3


def test_the_check_measures_what_it_says():
    model, batches = network(), [labelled(20), labelled(10)]
    found = deq_check(model, batches)
    assert found["n"] == 30
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    everything, stages = sum(sizes.values()), sum(n for name, n in sizes.items() if name.startswith("body."))
    state = sum(n for name, n in sizes.items() if ".cell." in name)
    assert found["parameter_share"] == stages / everything
    assert found["state_share"] == state / everything
    # Multiplications and additions of the convolutions and the head: grids of 15, 7 and 3, 12 evaluations.
    stem, head = 2 * 12 * 24 * 15**2, 2 * 24 * 3
    inject = 18 * (24 * 16 * 15**2 + 16 * 24 * 7**2)
    cells = 18 * (16 * 16 * 7**2 + 24 * 24 * 3**2)
    assert found["flop_share"] == pytest.approx((inject + 12 * cells) / (stem + inject + 12 * cells + head))
    assert found["flop_share_used"] < found["flop_share"]
    with use_solver(model, Picard(tol=1e-6, max_steps=100)), torch.no_grad():
        predicted = torch.cat([model(images).argmax(1) for images, _ in batches])
    right = (predicted == torch.cat([labels for _, labels in batches])).double().mean().item()
    assert found["accuracy_tight"] == right
    assert found["unconverged"] == found["unconverged_tight"] == found["disagreements"] == 0
    assert found["median_residual"] <= found["largest_residual"] <= 1e-3 * 1.01
    assert found["certified"] is True
    assert found["passed"] is False  # too much of it is in the injections
    assert found["state_share"] < 0.6
    assert len(check_rows(found)) == 13


def test_a_network_that_does_not_converge_does_not_count():
    model = network()
    with use_solver(model, Picard(tol=1e-3, max_steps=1)):
        found = deq_check(model, [labelled(20)])
    assert found["unconverged"] > 0
    assert found["passed"] is False
    assert {row[0]: row[1] for row in check_rows(found)}["counts as a DEQ"] == "**no**"


def written_out(cell, weight):
    """The matrix of z -> W z."""
    n = math.prod(cell.state)
    return cell.multiply(weight, torch.eye(n, dtype=weight.dtype).view(n, *cell.state)).reshape(n, n).T


def test_trained_cells_contract_as_they_are_certified_to():
    model = deqzoo.load("deq_digits").double()
    for layer in model.equilibria:
        cell, weight = layer.cell, layer.cell.weight().detach()
        norm = torch.linalg.svdvals(written_out(cell, weight))[0].item()
        assert norm <= cell.lipschitz() * (1 + 1e-12) < 1
        # The pair that f tears furthest apart, by ascent from random ones: some units are off for each of them.
        torch.manual_seed(0)
        x = torch.randn(4, *cell.state, dtype=weight.dtype)
        pair = torch.randn(2, *x.shape, dtype=weight.dtype, requires_grad=True)
        ascent, ratios = torch.optim.Adam([pair], lr=0.05), []
        for _ in range(150):
            image = [cell(z, x, weight) for z in pair]
            ratio = (image[0] - image[1]).flatten(1).norm(dim=1) / (pair[0] - pair[1]).flatten(1).norm(dim=1)
            ratios.append(ratio.max().item())
            (-ratio.log().sum()).backward()
            ascent.step()
            ascent.zero_grad()
        assert max(ratios) <= norm * (1 + 1e-12)
        assert max(ratios) > 0.8 * norm > 1.5 * ratios[0]


@pytest.mark.parametrize(
    ("entry", "shape"),
    [("deq_digits", (8, 1, 8, 8)), pytest.param("deq_cifar", (2, 3, 32, 32), marks=pytest.mark.slow)],
)
def test_gradients_at_the_shipped_weights_are_those_of_finite_differences(entry, shape):
    model = deqzoo.load(entry, tol=1e-13, max_steps=300).double().requires_grad_()
    images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(len(images))
    assert all(layer.certified for layer in model.equilibria)

    def loss():
        return torch.nn.functional.cross_entropy(model(images), labels)

    loss().backward()
    for tensor in (images, *model.body.parameters()):  # of tied weights those that are stored
        along, step = torch.randn(tensor.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 1e-6
        along /= along.norm()  # a short step: the loss has kinks, at each maximum and each zero of an activation
        values = []
        for sign in (1, -2):
            with torch.no_grad():
                tensor.add_(sign * step * along)
                values.append(loss().item())
        with torch.no_grad():
            tensor.add_(step * along)
        expected = (values[0] - values[1]) / (2 * step)
        assert (tensor.grad * along).sum().item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "limit"), [("deq_cifar", 4_000_000), ("deq_cifar_small", 172_000)])
def test_entries_are_of_the_size_and_shares_that_are_asked_for(entry, limit):
    info = ImageInfo(3, list("0123456789"), [0.5] * 3, [0.25] * 3, (32, 32))
    model = build_network(composed(f"model={entry}").model, info).eval()
    assert sum(p.numel() for p in model.parameters()) < limit
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = deq_check(model, [(images, torch.arange(4))])
    assert found["parameter_share"] > 0.98
    assert found["state_share"] > 0.6
    assert found["flop_share"] > 0.98
    assert found["certified"]
    assert found["unconverged"] == 0
