"""ConcatSquash networks: the equation, the forward mode, a time for all or for each, context."""

import pytest
import torch
from torch import nn
from torch.func import jvp, vmap

from deqzoo.nn import squash_conv_net, squash_mlp

F64 = torch.float64


def test_a_layer_is_its_equation():
    net = squash_mlp(3, (), context=2).double()
    (layer,) = net.layers
    y, context = torch.randn(4, 3, dtype=F64), torch.randn(4, 2, dtype=F64)
    c = torch.cat([torch.full((4, 1), 0.3, dtype=F64), context], 1)
    expected = layer(y) * torch.sigmoid(net.gate(c)) + net.shift(c)
    torch.testing.assert_close(net(torch.tensor(0.3, dtype=F64), y, context), expected)


@pytest.mark.parametrize("activation", ["silu", "softplus", "tanh"])
@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5, 5)])
@pytest.mark.parametrize("each", [False, True])
def test_forward_mode_is_that_of_torch(activation, shape, each):
    torch.manual_seed(0)
    make = squash_mlp if len(shape) == 2 else squash_conv_net
    net = make(shape[1], (6, 5), activation).double()
    y, v = torch.randn(shape, dtype=F64), torch.randn(3, *shape, dtype=F64)
    t = torch.rand(shape[0], dtype=F64) if each else torch.rand((), dtype=F64)
    value, products = net.with_jvp(t, y, v)
    torch.testing.assert_close(value, net(t, y))
    torch.testing.assert_close(products, vmap(lambda v: jvp(lambda y: net(t, y), (y,), (v,))[1])(v))


@pytest.mark.parametrize("make", [squash_mlp, squash_conv_net])
def test_directions_that_all_samples_share(make):
    shape = (4, 3) if make is squash_mlp else (4, 3, 5, 5)
    net, y, v = make(3, (6,)).double(), torch.randn(shape, dtype=F64), torch.randn(2, 1, *shape[1:], dtype=F64)
    t = torch.tensor(0.3, dtype=F64)
    torch.testing.assert_close(net.with_jvp(t, y, v)[1], net.with_jvp(t, y, v.expand(2, *shape))[1])
    assert make(3, ()).double().with_jvp(t, y, v)[1].shape == (2, *shape)


def test_one_time_for_all_is_that_time_for_each():
    net = squash_mlp(2, (8, 8)).double()
    y = torch.randn(5, 2, dtype=F64)
    torch.testing.assert_close(net(torch.tensor(0.4), y), net(torch.full((5,), 0.4), y), rtol=1e-7, atol=1e-7)


def test_input_scale_is_of_the_first_layer():
    torch.manual_seed(0)
    plain = squash_mlp(2, (8, 8))
    torch.manual_seed(0)
    scaled = squash_mlp(2, (8, 8), input_scale=3.0)
    for name, parameter in plain.named_parameters():
        factor = 3 if name.startswith("layers.0.") else 1
        torch.testing.assert_close(scaled.get_parameter(name), factor * parameter)


def test_every_parameter_counts():
    net = squash_conv_net(2, (4,))
    net(torch.tensor(0.5), torch.randn(2, 2, 5, 5)).square().sum().backward()
    assert all((p.grad != 0).any() for p in net.parameters())
    assert isinstance(net.layers[0], nn.Conv2d)
