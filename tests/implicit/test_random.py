"""Dropout in a `DEQ`: one mask for a whole solve and its backward, another one for the next forward."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from deqzoo.implicit import Anderson, Implicit, OneStep, Phantom, Picard, Unrolled
from deqzoo.nn import DEQ
from tests.implicit.problems import contraction, draw, loss, unroll


class Cell(nn.Module):
    """tanh(dropout(z) W + x), which keeps the masks that it has drawn."""

    def __init__(self, p=0.5):
        super().__init__()
        self.W = nn.Parameter(contraction(6, 0.2))
        self.dropout = nn.Dropout(p)
        self.masks = []

    def forward(self, z, x):
        mask = self.dropout(torch.ones_like(z))
        self.masks.append(mask.detach().clone())
        return torch.tanh((mask * z) @ self.W + x)


GRADIENTS = [Implicit(), Phantom(), OneStep(), Unrolled(), Unrolled(checkpoint=True)]


@pytest.mark.parametrize("gradient", GRADIENTS, ids=repr)
def test_one_mask_for_a_solve_and_its_backward(gradient):
    layer, x = DEQ(Cell(), solver=Picard(tol=1e-10), adjoint=gradient), draw(5, 6)
    z = layer(x)
    assert layer.solution.converged.all()  # a changing mask has no fixed point
    loss(z).backward()
    first = layer.cell.masks[0]
    assert len(layer.cell.masks) > 3
    assert all(torch.equal(mask, first) for mask in layer.cell.masks)
    assert 0 < (first == 0).sum() < first.numel()


def test_gradient_is_that_of_the_masked_map():
    layer, x = DEQ(Cell(), solver=Anderson()), draw(5, 6).requires_grad_()
    found = torch.autograd.grad(loss(layer(x)), (x, layer.cell.W))
    mask, W = layer.cell.masks[0], layer.cell.W
    exact = unroll(lambda z: torch.tanh((mask * z) @ W + x), torch.zeros_like(x))
    assert_close(found, torch.autograd.grad(loss(exact), (x, W)), rtol=1e-8, atol=1e-9)


def test_every_forward_draws_its_own_mask():
    layer, x = DEQ(Cell(), solver=Anderson()), draw(5, 6)
    layer(x)
    first = layer.cell.masks[-1]
    layer(x)
    assert not torch.equal(layer.cell.masks[-1], first)


def test_two_forwards_before_the_backwards():
    """The backward of the first must use its own mask, in spite of the draws in between."""
    layer, x = DEQ(Cell(), solver=Anderson()), draw(5, 6)
    W = layer.cell.W
    first, second = layer(x), layer(x)
    masks = layer.cell.masks[0], layer.cell.masks[-1]
    torch.rand(100)
    for z, mask in [(second, masks[1]), (first, masks[0])]:
        exact = unroll(lambda z, mask=mask: torch.tanh((mask * z) @ W + x), torch.zeros_like(x))
        assert_close(torch.autograd.grad(loss(z), W), torch.autograd.grad(loss(exact), W), rtol=1e-8, atol=1e-9)


def test_generator_moves_on_as_after_one_call():
    """Independent of how many steps the solve took, and not moved by the backward."""
    x = draw(5, 6)

    def draws_after(steps):
        torch.manual_seed(3)
        layer = DEQ(Cell(), solver=Picard(tol=0, max_steps=steps))
        z = layer(x)
        after_forward = torch.get_rng_state()
        loss(z).backward()
        assert torch.equal(torch.get_rng_state(), after_forward)
        return torch.rand(3)

    torch.manual_seed(3)
    Cell()(x, x)
    once = torch.rand(3)
    assert torch.equal(draws_after(4), once)
    assert torch.equal(draws_after(9), once)


def test_same_seed_same_result():
    layer, x = DEQ(Cell(), solver=Anderson()), draw(5, 6)
    torch.manual_seed(5)
    first = layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first)


def test_smaller_last_batch():
    """torchdeq's masks keep the shape of the first batch."""
    layer, x = DEQ(Cell(), solver=Anderson()), draw(5, 6)
    for size in (5, 3, 1):
        z = layer(x[:size])
        assert z.shape == (size, 6)
        assert layer.cell.masks[-1].shape == (size, 6)
        loss(z).backward()


def test_no_dropout_in_eval_mode_but_gradients():
    layer, x = DEQ(Cell(), solver=Anderson()).eval(), draw(5, 6)
    state = torch.get_rng_state()
    z = layer(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert all((mask == 1).all() for mask in layer.cell.masks)
    exact = unroll(lambda z: torch.tanh(z @ layer.cell.W + x), torch.zeros_like(x))
    assert_close(
        torch.autograd.grad(loss(z), layer.cell.W), torch.autograd.grad(loss(exact), layer.cell.W), rtol=1e-8, atol=1e-9
    )


def test_exception_in_the_cell_restores_nothing_halfway():
    """The generator is left as after the draws that were made, not at the start of the solve."""

    class Failing(Cell):
        def forward(self, z, x):
            if len(self.masks) == 3:
                raise FloatingPointError("from the cell")
            return super().forward(z, x)

    torch.manual_seed(3)
    Cell()(draw(5, 6), draw(5, 6))
    once = torch.rand(3)
    torch.manual_seed(3)
    with pytest.raises(FloatingPointError):
        DEQ(Failing(), solver=Picard())(draw(5, 6))
    assert torch.equal(torch.rand(3), once)


def test_second_order_with_dropout():
    layer, x = DEQ(Cell(), solver=Anderson()), draw(2, 6).requires_grad_()
    (slope,) = torch.autograd.grad(loss(layer(x)), x, create_graph=True)
    found = torch.autograd.grad(slope.square().sum(), layer.cell.W)
    mask, W = layer.cell.masks[0], layer.cell.W
    (slope,) = torch.autograd.grad(
        loss(unroll(lambda z: torch.tanh((mask * z) @ W + x), torch.zeros_like(x))), x, create_graph=True
    )
    assert_close(found, torch.autograd.grad(slope.square().sum(), W), rtol=1e-7, atol=1e-8)
    assert all(torch.equal(other, mask) for other in layer.cell.masks)
