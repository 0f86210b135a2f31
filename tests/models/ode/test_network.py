"""Classifiers with a neural ODE, and their dynamics: sizes of the papers' models, time as a channel."""

import pytest
import torch
from torch.nn import functional as F

from deqzoo.models import anode_net, ode_net, point_classifier
from deqzoo.nn import BottleneckDynamics, ConvDynamics, MLPDynamics
from deqzoo.nn.dynamics import TimeConv

DIGITS = "0123456789"


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_models_have_the_papers_numbers_of_parameters():
    assert parameters(ode_net(1, DIGITS, [0.1], [0.3])) == 208_266
    statistics = [0.5] * 3, [0.25] * 3
    assert parameters(anode_net(3, (32, 32), DIGITS, *statistics, hidden=125)) == 172_358
    assert parameters(anode_net(3, (32, 32), DIGITS, *statistics, hidden=64, augment=10)) == 171_799


def test_every_parameter_has_a_gradient_and_images_are_normalised():
    network = ode_net(1, DIGITS, [0.1], [0.3], width=8, groups=4, augment=4)
    images = torch.rand(3, 1, 28, 28)
    logits = network(images)
    assert logits.shape == (3, 10)
    assert network.start(images).shape == (3, 8, 6, 6)
    logits.square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    raw = anode_net(1, (4, 4), DIGITS, [0.25], [0.5], hidden=4)
    torch.testing.assert_close(raw.start(torch.full((1, 1, 4, 4), 0.75)), torch.ones(1, 1, 4, 4))


def test_time_convolution_is_a_convolution_with_a_constant_channel():
    layer = TimeConv(4, 6)
    y, t = torch.randn(2, 4, 5, 5), torch.tensor(0.3)
    joined = torch.cat([torch.full((2, 1, 5, 5), 0.3), y], 1)
    weight = torch.cat([layer.time, layer.conv.weight], 1)
    torch.testing.assert_close(layer(t, y), F.conv2d(joined, weight, layer.conv.bias, padding=1))


@pytest.mark.parametrize(
    ("dynamics", "shape"),
    [
        (MLPDynamics(3, 8, "softplus", time=True), (2, 3)),
        (ConvDynamics(8, groups=4), (2, 8, 5, 5)),
        (BottleneckDynamics(3, 4), (2, 3, 5, 5)),
    ],
)
def test_each_sample_may_have_its_own_time(dynamics, shape):
    y, t = torch.randn(shape), torch.tensor([0.2, 0.9])
    alone = torch.cat([dynamics(time, sample[None]) for time, sample in zip(t, y, strict=True)])
    torch.testing.assert_close(dynamics(t, y), alone)


def test_unknown_activation_lists_the_valid_ones():
    with pytest.raises(ValueError, match="activation=gelu is unknown; valid are elu, relu, softplus, tanh"):
        point_classifier(2, "ab", activation="gelu")
