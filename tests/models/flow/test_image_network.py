"""Flows of images: squeeze and split, and that all of it is one change of variables."""

import math

import pytest
import torch
from torch.func import jacrev

from deqzoo.implicit import Tsit5
from deqzoo.models.flow.image_network import FlatFlow, ImageFlow, MultiscaleFlow, UNetFlow
from deqzoo.models.flow.pixels import Logit
from deqzoo.nn.flow import standard_normal

F64 = torch.float64
SHARP = Tsit5(rtol=1e-9, atol=1e-9, first_step="span")


def multiscale(size=(1, 4, 4), **options):
    torch.manual_seed(0)
    return MultiscaleFlow(size, scales=2, blocks=1, hidden=(4,), solver=SHARP, **options).double()


def flat(size=(1, 4, 4), **options):
    torch.manual_seed(0)
    return FlatFlow(size, hidden=(8,), solver=SHARP, **options).double()


def unet(size=(1, 4, 4), **options):
    torch.manual_seed(0)
    sharp = Tsit5(rtol=2e-8, atol=2e-8, first_step="span")  # each evaluation takes a product per pixel
    flow = UNetFlow(size, widths=(8,), blocks=1, solver=sharp, **options).double()
    for parameter in flow.parameters():  # away from the identity, where it starts
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    flow.flow.dynamics.frequencies.fill_(1.0)  # the fast ones ask a sharp solve for hundreds of steps
    return flow


@pytest.mark.parametrize("make", [multiscale, flat, pytest.param(unet, marks=pytest.mark.slow)])
def test_body_is_invertible_and_knows_its_determinant(make):
    body = make().eval()
    if make is flat:
        body.whiten(torch.randn(50, 1, 4, 4, dtype=F64))
    x = torch.randn(2, 1, 4, 4, dtype=F64)
    z, change = body.to_base(x)
    assert z.shape == (2, 16)
    again, back = body.from_base(z)
    torch.testing.assert_close(again, x, atol=1e-7, rtol=0)
    torch.testing.assert_close(back, change, atol=1e-7, rtol=0)
    for sample, expected in zip(x, change, strict=True):
        jacobian = jacrev(lambda x: body.to_base(x[None])[0][0])(sample).reshape(16, 16)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], expected, atol=1e-6, rtol=0)


def test_whitened_flow_starts_as_the_gaussian_of_the_data():
    torch.manual_seed(1)
    mix = torch.randn(16, 16, dtype=F64)
    x = (torch.randn(5000, 16, dtype=F64) @ mix.T + 1).view(-1, 1, 4, 4)
    body = flat().eval()
    body.whiten(x)
    for parameter in body.parameters():
        parameter.data.zero_()
    z, change = body.to_base(x[:7])
    normal = torch.distributions.MultivariateNormal(x.flatten(1).mean(0), x.flatten(1).T.cov())
    torch.testing.assert_close(standard_normal(z) + change, normal.log_prob(x[:7].flatten(1)))
    with pytest.raises(ValueError, match="more than 16 images are needed for their covariance, got 16"):
        body.whiten(x[:16])


def test_flow_of_a_unet_starts_as_the_identity():
    x = torch.randn(3, 1, 8, 8)
    flow = UNetFlow((1, 8, 8), widths=(8, 16, 16), solver=Tsit5(first_step="span"))  # a field of zeros: one step
    z, change = flow.eval().to_base(x)
    torch.testing.assert_close(z, x.flatten(1))
    assert change.abs().max() == 0


def test_three_scales_of_shapes():
    body = MultiscaleFlow((1, 28, 28), scales=3, blocks=1, hidden=(2,))
    assert body.shapes == [(2, 14, 14), (4, 7, 7), (4, 7, 7)]
    with pytest.raises(ValueError, match="scales=4: images of 28x28 cannot be halved"):
        MultiscaleFlow((1, 28, 28), scales=4)


def test_bits_of_uniform_noise_are_its_levels():
    """With no dynamics and the density of the logistic map, bits/dim is minus the log density, in bits."""
    flow = ImageFlow(flat(), (1, 4, 4), levels=17, pixels=Logit(0.05)).eval()
    for parameter in flow.parameters():
        parameter.data.zero_()
    x = torch.rand(5, 1, 4, 4, dtype=F64)
    y, slope = Logit(0.05)(x)
    expected = math.log2(17) - (standard_normal(y) + slope) / (16 * math.log(2))
    torch.testing.assert_close(flow.bits_per_dim(x), expected)
    assert flow.sample(7).shape == (7, 1, 4, 4)
    torch.testing.assert_close(flow(x), flow.log_prob(x))


@pytest.mark.parametrize("make", [multiscale, flat, unet])
def test_training_reaches_every_parameter_and_adds_the_paths(make):
    flow = ImageFlow(make(divergence="rademacher", penalties=["kinetic"]), (1, 4, 4), levels=17, pixels=Logit(0.05))
    loss = flow.bits_per_dim(torch.rand(3, 1, 4, 4, dtype=F64)).mean()
    (path,) = flow.path.values()
    assert path.shape == (3,)
    (loss + path.mean()).backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in flow.parameters())
