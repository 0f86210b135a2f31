"""`revdeq_cifar`: trains, its card says how far from the fixed point it ends, and a loaded one is what was trained."""

import pytest
import torch

import deqzoo
from deqzoo.implicit import Anderson, Implicit, Picard, ReversibleIteration, Unrolled
from deqzoo.nn import use_solver
from tests.models.equilibrium.test_cifar_recipes import SMALL, network_of
from tests.running import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqzoo.plots.budget.STEPS", (1, 3))
        patch.setattr("deqzoo.models.equilibrium.kind.DRAWN", 50)
        small = ["model=revdeq_cifar", *SMALL, "model.widths=[16,16]", "model.baseline=null"]
        return run(tmp_path_factory.mktemp("run") / "revdeq", *small)


def test_a_short_training_and_its_card(trained):
    assert trained.metrics["test"]["n"] == 360
    assert trained.metrics["test"]["nfe"] == 9  # four steps of the pair, and the residual's
    assert trained.metrics["deq_check"]["flop_share"] > 0.5
    card = (trained.folder / "export" / "README.md").read_text()
    assert "reversible_iteration" in card
    assert "counts as a DEQ | **no** |" in card  # four steps do not reach the fixed point


def test_a_loaded_one_takes_the_steps_of_the_training_or_those_of_another_solver(trained):
    folder = trained.folder / "export"
    images = torch.rand(5, 1, 8, 8)
    model = deqzoo.load(folder)
    torch.testing.assert_close(model(images), trained.module.network.eval()(images))
    assert all(isinstance(layer.adjoint, ReversibleIteration) for layer in model.equilibria)
    other = deqzoo.load(folder, solver="anderson", tol=5e-2)
    assert all(isinstance(layer.adjoint, Implicit) for layer in other.equilibria)
    with use_solver(model, Anderson(tol=5e-2)):
        torch.testing.assert_close(model(images), other(images))
    assert all(isinstance(layer.adjoint, ReversibleIteration) for layer in model.equilibria)


def test_a_loaded_unrolled_network_has_the_gradient_of_its_steps():
    model, measured = deqzoo.load("unrolled_deblur"), torch.rand(2, 3, 32, 32)
    assert isinstance(model.deq.adjoint, Unrolled)
    loss = model(measured).square().mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with use_solver(model, Picard(max_steps=6, stop="never")):
        model.deq.adjoint = None  # that of a fixed point, which six steps have not come to
        others = torch.autograd.grad(model(measured).square().mean(), list(model.parameters()))
    assert any((a - b).norm() > 1e-2 * b.norm() for a, b in zip(gradients, others, strict=True))


def test_as_many_parameters_as_the_well_posed_one():
    reversible, well_posed = network_of("model=revdeq_cifar"), deqzoo.load("deq_cifar_small")
    counts = [sum(p.numel() for p in network.parameters()) for network in (reversible, well_posed)]
    assert 0.9 < counts[0] / counts[1] <= 1
