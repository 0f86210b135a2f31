"""Activation checkpointing around and inside a solve, and saved-tensor hooks."""

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from deqzoo.implicit import Anderson, Implicit, OneStep, Phantom, Picard, Unrolled, fixed_point
from deqzoo.nn import DEQ
from tests.implicit import problems
from tests.implicit.problems import PROBLEMS, Cell, draw, loss


@pytest.mark.parametrize("name", PROBLEMS)
def test_around_a_solve(name):
    problem = PROBLEMS[name]

    def gradients(function):
        args = problem.leaves()
        loss(function(*args)).backward()
        return [t.grad for t in args]

    found = gradients(lambda *args: checkpoint(problem.implicit, *args, use_reentrant=False))
    assert_close(found, gradients(problem.exact), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(), OneStep(), Unrolled()], ids=repr)
def test_around_a_layer_in_a_network(gradient):
    """Also where the layer's input is itself recomputed, and with dropout inside, whose masks must come again."""
    cell = Cell()
    cell.input = nn.Sequential(cell.input, nn.Dropout(0.5))
    layer = DEQ(cell, solver=Picard(tol=1e-10), adjoint=gradient)
    net = nn.Sequential(nn.Linear(3, 3).double(), layer, nn.Linear(3, 2).double())
    x = draw(4, 3)

    def gradients(forward):
        torch.manual_seed(1)
        net.zero_grad()
        loss(forward(x)).backward()
        return [p.grad for p in net.parameters()]

    plain = gradients(net)
    assert_close(gradients(lambda x: checkpoint(net, x, use_reentrant=False)), plain, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(), Unrolled()], ids=repr)
def test_inside_the_function(gradient):
    """f checkpoints its own block: each product with the Jacobian recomputes it."""
    cell, x = Cell(), draw(4, 3)

    def gradients(f):
        z = fixed_point(f, torch.zeros_like(x), x, solver=Picard(), adjoint=gradient, batch_dims=1)
        return torch.autograd.grad(loss(z), list(cell.parameters()))

    found = gradients(lambda z, x: checkpoint(cell, z, x, use_reentrant=False))
    assert_close(found, gradients(cell), rtol=1e-10, atol=1e-11)


def test_second_order_through_a_checkpoint():
    W, x = PROBLEMS["tanh_captured"].leaves()

    def penalty(function):
        (slope,) = torch.autograd.grad(loss(function(W, x)), x, create_graph=True)
        return torch.autograd.grad(slope.pow(2).sum(), (W, x))

    found = penalty(lambda W, x: checkpoint(problems.tanh_captured, W, x, use_reentrant=False))
    assert_close(found, penalty(problems.tanh_exact), rtol=1e-7, atol=1e-8)


def test_several_checkpoints_in_a_row():
    W, x = PROBLEMS["tanh_batch"].leaves()

    def gradients(function):
        y = x
        for _ in range(3):
            y = function(W, y)
        return torch.autograd.grad(loss(y), (W, x))

    found = gradients(lambda W, y: checkpoint(problems.tanh_batch, W, y, use_reentrant=False))
    assert_close(found, gradients(problems.tanh_exact), rtol=1e-8, atol=1e-9)


def test_saved_tensors_may_be_offloaded():
    W, x = PROBLEMS["tanh_captured"].leaves()
    with save_on_cpu():
        value = loss(problems.tanh_captured(W, x))
    found = torch.autograd.grad(value, (W, x))
    assert_close(found, torch.autograd.grad(loss(problems.tanh_exact(W, x)), (W, x)), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_saved_tensors_pass_through_hooks(order):
    """Whatever is saved goes through the user's pack and unpack: here as NumPy arrays, a compressor's place."""
    packed = []

    def pack(t):
        packed.append(t.shape)
        return t.detach().clone()

    def derivative(function, args):
        value = loss(function(*args))
        for _ in range(order - 1):
            (slope,) = torch.autograd.grad(value, args[1], create_graph=True)
            value = slope.pow(2).sum()
        return torch.autograd.grad(value, args[0])

    W, x = PROBLEMS["tanh_batch"].leaves()
    exact = derivative(problems.tanh_exact, (W, x))
    if order == 1:
        with saved_tensors_hooks(pack, lambda t: t):
            found = derivative(problems.tanh_batch, (W, x))
        assert packed
    else:  # the hooks cut second-order paths of plain torch as well unless they keep the tensor itself
        with saved_tensors_hooks(lambda t: t, lambda t: t):
            found = derivative(problems.tanh_batch, (W, x))
    assert_close(found, exact, rtol=1e-7, atol=1e-8)


def test_tensor_changed_in_place_before_backward_is_noticed():
    """As everywhere in torch: a parameter written to between forward and backward is an error, not a wrong gradient."""
    layer, x = DEQ(Cell(), solver=Anderson()), draw(4, 3)
    z = layer(x)
    with torch.no_grad():
        layer.cell.state.weight.mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss(z).backward()
