"""The U-Net of image flows: its shapes, that all pixels and the time reach all pixels, and what it refuses."""

import pytest
import torch

from deqzoo.nn import UNet


def awake(size, widths, blocks=1):
    """A U-Net whose layers that start at zero do not."""
    torch.manual_seed(0)
    net = UNet(size, widths, blocks).double()
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("widths", [(8,), (8, 16), (16, 8, 24)])
@pytest.mark.parametrize("blocks", [1, 2])
def test_shapes_and_gradients(widths, blocks):
    net = awake((3, 16, 8), widths, blocks)
    t = torch.rand(5, dtype=torch.float64)
    y = torch.randn(5, 3, 16, 8, dtype=torch.float64)
    out = net(t, y)
    assert out.shape == y.shape
    out.square().mean().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in net.parameters())
    # A time for each sample is the same as each sample alone at its time.
    alone = torch.cat([net(t[i], y[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(out, alone)


def test_every_pixel_depends_on_every_pixel():
    """Of the digits' size; two resolutions see all of it."""
    net = awake((1, 28, 28), (8, 16))
    y = torch.randn(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(net(torch.tensor(0.3), y)[0, 0, 0, 0], y)
    assert (grad != 0).all()


def test_refusals():
    with pytest.raises(ValueError, match="images of 28x28 cannot be halved 3 times"):
        UNet((1, 28, 28), (8, 8, 8))
    with pytest.raises(ValueError, match="images of 4x4 end as one value per group norm; use fewer or larger widths"):
        UNet((1, 4, 4), (8, 8))
    for widths, blocks in (((), 1), ((12,), 1), ((8,), 0), ((0,), 1)):
        with pytest.raises(ValueError, match="must be multiples of 8, and blocks at least 1"):
            UNet((1, 8, 8), widths, blocks)
