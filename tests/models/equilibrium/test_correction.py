"""Options of a DEQ classifier: fixed-point correction, weight normalisation, dropout, truncated and shared backward."""

import copy
import json

import pytest
import torch
from torch.nn import functional as F

import deqzoo
from deqzoo.data import ImageData
from deqzoo.errors import ConfigError
from deqzoo.implicit import GMRES, Anderson, Broyden, Implicit, Neumann, Picard
from deqzoo.models import DEQClassifierModule, ImageInfo, build_network
from deqzoo.models.equilibrium.config import DEQClassifierConfig
from deqzoo.training import Run
from deqzoo.zoo.folder import read_golden
from tests.running import SMALL, UNBOUNDED, composed, run

EVERY = [
    "model.correction_steps=[1,3]",
    "model.cell_options.weight_norm=true",
    "model.cell_options.dropout=0.2",
    "model.solver=broyden",
    "model.adjoint=implicit",
    "~model.adjoint_options.steps",
    "+model.adjoint_options.share_inverse=true",
    "+model.adjoint_options.linear_solver=gmres",
    "+model.adjoint_options.linear_solver_options.max_steps=2",
]


def network(cell_options=None, **settings):
    torch.manual_seed(0)
    data = ImageData("digits")
    settings = {"widths": [8], "entry_groups": 4, "solver_options": {"tol": 1e-3, "max_steps": 20}} | settings
    settings["cell_options"] = {"groups": 4} | (cell_options or {})
    return build_network(DEQClassifierConfig(**settings), ImageInfo(1, data.classes, data.mean, data.std))


def batch(size=6):
    return torch.rand(size, 1, 8, 8), torch.randint(10, (size,))


def silent(module):
    module.log = module.log_dict = lambda *args, **kwargs: None
    module._when = str
    return module


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two steps with every option."""
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("runs") / "a", *UNBOUNDED, *SMALL, *EVERY, "trainer.max_steps=2")


def test_correction_adds_the_losses_of_what_is_said_on_the_way():
    """Against iterates of solves that end there; through one step of the cell each."""
    options = {"solver": "picard", "solver_options": {"tol": 0.0, "max_steps": 7}, "widths": [8, 8]}
    module = DEQClassifierModule(network(**options), correction_steps=[2, 4], correction_decay=0.5)
    plain = DEQClassifierModule(network(**options))
    images, labels = batch()
    difference = silent(module).training_step((images, labels), 0) - silent(plain).training_step((images, labels), 0)

    net = plain.network
    with torch.no_grad():
        first = net.stages[0](net.entries[0]((images - net.mean) / net.std))
        x = net.entries[1](first)
    expected = 0.0
    for steps, factor in ((2, 0.25), (4, 0.5)):
        z = Picard(tol=0.0, max_steps=steps, keep=(steps,))(net.stages[1].cell, torch.zeros_like(x), x).kept[0]
        expected = expected + factor * F.cross_entropy(net.readout(net.stages[1].cell(z, x)), labels)
    torch.testing.assert_close(difference, expected)
    difference.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.network.parameters())


def test_correction_is_for_training_alone():
    module = DEQClassifierModule(network(), correction_steps=[1], ema_decay=0.5)
    images, _ = batch()
    module.network.train()(images)
    assert len(module.network.stages[0].intermediate) == 1
    assert copy.deepcopy(module.network).stages[0].intermediate == []
    module.network.eval()(images)
    assert module.network.stages[0].intermediate == []
    assert module.trained_network.stages[0].solver.keep == ()


def test_masks_of_the_losses_on_the_way_are_those_of_the_solve():
    net = network({"dropout": 0.5}, solver="picard", solver_options={"tol": 0.0, "max_steps": 4}).train()
    net.stages[0].solver = Picard(tol=0.0, max_steps=4, keep=(2, 3))
    net(batch()[0])
    solution, (after_three, _) = net.stages[0].solution, net.stages[0].intermediate
    torch.testing.assert_close(after_three, solution.kept[1])


def test_weight_normalisation_survives_copies_and_saves_and_gets_its_gradients():
    normed, plain = network({"weight_norm": True}), network()
    images, labels = batch()
    torch.testing.assert_close(normed(images), plain(images))  # it starts as the plain one
    names = {name for name, _ in normed.named_parameters()}
    assert "stages.0.cell.conv1.parametrizations.weight.original0" in names
    twin = copy.deepcopy(normed)
    other = network({"weight_norm": True})
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(normed.state_dict())
    for each in (twin, other):
        assert torch.equal(each(images), normed(images))
    module = DEQClassifierModule(normed, jacobian_penalty=0.1, ema_decay=0.9)
    silent(module).training_step((images, labels), 0).backward()
    assert [name for name, p in normed.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in twin.parameters())


def test_gradient_of_normalised_weights_is_that_of_the_chain_rule():
    exact = {"solver_options": {"tol": 1e-10, "max_steps": 200}, "adjoint_options": {}}
    normed, plain = network({"weight_norm": True}, **exact).double(), network(**exact).double()
    images, labels = batch()
    for net in (normed, plain):
        F.cross_entropy(net(images.double()), labels).backward()
    pair = normed.stages[0].cell.conv1.parametrizations.weight
    g, v = (p.detach().requires_grad_() for p in (pair.original0, pair.original1))
    weight = g * v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = torch.autograd.grad(weight, (g, v), plain.stages[0].cell.conv1.weight.grad)
    for ours, reference in zip((pair.original0.grad, pair.original1.grad), expected, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-6, atol=1e-9)


def test_every_option_in_a_run(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    assert metrics["test"]["n"] == 360
    gradient = finished.module.network.stages[0].adjoint
    assert gradient == Implicit(GMRES(max_steps=2), share_inverse=True)
    folder = finished.folder / "export"
    inputs, output = read_golden(folder)
    torch.testing.assert_close(deqzoo.load(folder)(**inputs), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("asked", "solver"),
    [
        ({}, Broyden(tol=3e-3, max_steps=5)),
        ({"tol": 1e-5, "max_steps": 60}, Broyden(tol=1e-5, max_steps=60)),
        ({"solver": "anderson"}, Anderson(tol=3e-3, max_steps=100)),  # the recipe's budget is Broyden's
        ({"solver": "picard", "tol": 1e-2}, Picard(tol=1e-2, max_steps=100)),
        ({"solver": "newton_krylov", "max_steps": 3}, None),
    ],
)
def test_loaded_with_another_solver_tolerance_and_limit(finished, asked, solver):
    """The gradient is the exact one then, whatever it was in training."""
    model = deqzoo.load(finished.folder / "export", **asked)
    used = model.stages[0].solver
    assert solver is None or used == solver
    assert used.tol == asked.get("tol", 3e-3)
    assert used.max_steps == asked.get("max_steps", used.max_steps)
    assert model.stages[0].adjoint == Implicit()
    images = read_golden(finished.folder / "export")[0]["images"].requires_grad_()
    model(images).sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["model.correction_steps=[2,5]"],
            r"model\.correction_steps=\[2, 5\] must increase, and lie below .*max_steps=5",
        ),
        (["model.correction_steps=[3,2]"], "must increase, and lie below"),
        (
            ["+model.adjoint_options.share_inverse=true", "model.adjoint=implicit", "~model.adjoint_options.steps"],
            r"share_inverse needs model\.solver=broyden",
        ),
        (["model.correction_decay=2"], r"correction_decay must lie in \(0, 1\]"),
    ],
)
def test_wrong_value_stops_the_run_before_training(overrides, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        Run(composed(*UNBOUNDED, *SMALL, *overrides), tmp_path)


def test_truncated_backward_costs_what_it_says():
    images, labels = batch()
    for linear_solver, products in ((GMRES(max_steps=2), 2), (Neumann(k=3), 3)):
        net = network()
        net.stages[0].adjoint = Implicit(linear_solver)
        F.cross_entropy(net(images), labels).backward()
        assert net.stages[0].solution.backward.nfe == products
