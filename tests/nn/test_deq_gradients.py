"""Gradients of the equilibrium layer against the unrolled iteration."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from deqzoo.implicit import (
    GMRES,
    Anderson,
    Broyden,
    Dense,
    Implicit,
    Neumann,
    Newton,
    NewtonKrylov,
    OneStep,
    Phantom,
    Picard,
    Unrolled,
)
from deqzoo.nn import DEQ, ConvCell
from tests.implicit.solvers.helpers import F64, assert_close, randn
from tests.nn.layers import SHARP, Dense2, gradients, unrolled


@pytest.mark.parametrize(
    "solver",
    [Picard(max_steps=300), Anderson(), Broyden(), Newton(), NewtonKrylov()],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize(
    "gradient",
    [Implicit(GMRES()), Implicit(Dense()), Implicit(Neumann(k=80)), Phantom(steps=60)],
    ids=["gmres", "dense", "neumann", "phantom"],
)
def test_gradients_agree_with_the_unrolled_iteration(solver, gradient):
    cell, x = Dense2(), randn(4, 5, seed=1).requires_grad_()
    deq = DEQ(cell, solver=solver, adjoint=gradient, on_failure="raise")
    for ours, reference in zip(gradients(deq(x), x, cell), gradients(unrolled(cell, x), x, cell), strict=True):
        assert_close(ours, reference, 1e-9)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_unrolled_gradient_is_the_tape_of_the_iteration(checkpointed):
    cell, x = Dense2(), randn(4, 5, seed=1).requires_grad_()
    deq = DEQ(cell, solver=Picard(tol=0.0, max_steps=12), adjoint=Unrolled(checkpoint=checkpointed))
    for ours, reference in zip(gradients(deq(x), x, cell), gradients(unrolled(cell, x, 12), x, cell), strict=True):
        assert_close(ours, reference, 1e-12)


def test_cheap_gradients_err_as_their_theory_says():
    """Phantom and Neumann by .6^k, the one-step gradient not at all like the exact one but downhill."""
    cell, x = Dense2(), randn(4, 5, seed=1).requires_grad_()
    exact = torch.cat([g.flatten() for g in gradients(DEQ(cell, **SHARP)(x), x, cell)])
    errors = {}
    for name, gradient in {
        "one step": OneStep(),
        "phantom 3": Phantom(steps=3),
        "phantom 9": Phantom(steps=9),
        "neumann 0": Implicit(Neumann(k=0)),
        "neumann 8": Implicit(Neumann(k=8)),
        "damped": Phantom(steps=20, damping=0.5),
        "damped 5": Phantom(steps=5, damping=0.5),
        "neumann damped 4": Implicit(Neumann(k=4, damping=0.5)),
    }.items():
        deq = DEQ(cell, solver=Anderson(max_steps=300), adjoint=gradient)
        found = torch.cat([g.flatten() for g in gradients(deq(x), x, cell)])
        errors[name] = ((found - exact).norm() / exact.norm()).item()
        assert found @ exact > 0.5 * found.norm() * exact.norm()
    assert abs(errors["one step"] - errors["neumann 0"]) < 1e-6
    assert 0.05 < errors["one step"] < 0.6
    assert errors["phantom 3"] < 0.6**3 / 0.4
    assert abs(errors["phantom 9"] - errors["neumann 8"]) < 1e-6
    assert errors["phantom 9"] < 0.6**9 / 0.4
    assert errors["damped"] < 0.1
    assert abs(errors["damped 5"] - errors["neumann damped 4"]) < 1e-6


def test_gradients_of_a_convolutional_cell_agree_with_the_unrolled_iteration():
    cell, x = ConvCell(8).double(), randn(2, 8, 5, 5, seed=1).requires_grad_()
    deq = DEQ(cell, **SHARP)
    for ours, reference in zip(gradients(deq(x), x, cell), gradients(unrolled(cell, x), x, cell), strict=True):
        assert_close(ours, reference, 1e-8)


@pytest.mark.parametrize(
    "gradient", [Implicit(), Phantom(steps=60), OneStep()], ids=["implicit", "phantom", "one_step"]
)
def test_eval_mode_gives_the_gradient_of_training_mode(gradient):
    cell, x = Dense2(), randn(3, 5, seed=1).requires_grad_()
    deq = DEQ(cell, solver=Anderson(), adjoint=gradient)
    training = gradients(deq(x), x, cell)
    deq.eval()
    for ours, reference in zip(gradients(deq(x), x, cell), training, strict=True):
        assert_close(ours, reference, 1e-12)


def test_gradients_accumulate_over_several_forwards_before_one_backward():
    cell = Dense2()
    deq = DEQ(cell, **SHARP)
    inputs = [randn(2, 5, seed=i).requires_grad_() for i in range(3)]
    sum(deq(x).pow(2).sum() for x in inputs).backward()
    reference = torch.autograd.grad(sum(unrolled(cell, x).pow(2).sum() for x in inputs), cell.to_state.weight)[0]
    assert_close(cell.to_state.weight.grad, reference, 1e-9)


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(steps=60)], ids=["implicit", "phantom"])
def test_activation_checkpointing_of_the_layer(gradient):
    cell, x = Dense2(), randn(3, 5, seed=1).requires_grad_()
    deq = DEQ(cell, solver=Anderson(), adjoint=gradient)
    for ours, reference in zip(
        gradients(checkpoint(deq, x, use_reentrant=False), x, cell), gradients(deq(x), x, cell), strict=True
    ):
        assert_close(ours, reference, 1e-10)


def test_layers_in_a_row_and_one_layer_inside_another():
    first, second, x = Dense2(), Dense2(), randn(2, 5, seed=1).requires_grad_()
    a, b = DEQ(first, **SHARP), DEQ(second, **SHARP)
    ours = torch.autograd.grad(b(a(x)).pow(2).sum(), x)[0]
    assert_close(ours, torch.autograd.grad(unrolled(second, unrolled(first, x)).pow(2).sum(), x)[0], 1e-9)

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = DEQ(first, **SHARP)

        def forward(self, z, x):
            return 0.4 * self.inner(z + x)

    nested = Nested()
    ours = torch.autograd.grad(DEQ(nested, **SHARP)(x).pow(2).sum(), x)[0]
    z = torch.zeros_like(x)
    for _ in range(60):
        z = 0.4 * unrolled(first, z + x, 80)
    assert_close(ours, torch.autograd.grad(z.pow(2).sum(), x)[0], 1e-8)


def test_batch_norm_in_training_is_refused_and_works_in_eval_mode():
    """Batch statistics couple the samples, which are systems of their own: the gradient would be wrong."""

    class Normed(Dense2):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(5, dtype=F64)

        def forward(self, z, x):
            return 0.5 * torch.tanh(self.norm(self.to_state(z) + self.injection(x)))

    cell, x = Normed(), randn(6, 5, seed=1).requires_grad_()
    deq = DEQ(cell, **SHARP)
    with pytest.raises(ValueError, match=r"norm is a BatchNorm1d.*GroupNorm.*eval"):
        deq(x)
    deq.eval()
    for a, b in zip(gradients(deq(x), x, cell), gradients(unrolled(cell, x), x, cell), strict=True):
        assert_close(a, b, 1e-8)
    assert cell.norm.num_batches_tracked == 0
