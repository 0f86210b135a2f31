"""Networks that commute with the mirror image."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deqzoo.implicit import Anderson, Implicit, Picard
from deqzoo.models import DEQClassifier, contractive_net, residual_net
from deqzoo.nn import PlainConvCell
from deqzoo.nn.flip_equivariant import PairedBatchNorm2d, flipped, make_flip_equivariant

F64 = torch.float64
INFO = {"classes": ["a", "b", "c"], "mean": [0.5, 0.4], "std": [0.2, 0.3]}


def randomised(network):
    """Also the weights of norms and the running statistics, which start as constants."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.mul_(1 + 0.5 * (torch.rand_like(tensor) - 0.5)).add_(0.05 * torch.rand_like(tensor))
    return network


def deq(**settings):
    solver = Anderson(tol=1e-12, max_steps=200)
    groups = settings.pop("groups", 2)
    settings = {"widths": [8, 12], "stem": 4, "entry_groups": groups, "entry_kernel": 2} | settings
    settings["cell_options"] = {"groups": groups} | settings.get("cell_options", {})
    options = {"solver": solver, "adjoint": Implicit(), "flip_equivariant": True} | settings
    return DEQClassifier(in_channels=2, **INFO, **options)


@settings(max_examples=15)
@given(
    channels=st.sampled_from([2, 4, 6]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.sampled_from([1, 2]),
    training=st.booleans(),
)
def test_layers_commute_with_the_mirror_image(channels, size, stride, training):
    shape = {"kernel_size": 3, "padding": 1} if stride == 1 else {"kernel_size": 2, "stride": 2}
    conv = nn.Conv2d(3, channels, bias=False, **shape)
    layers = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.Conv2d(channels, 8, 1, bias=False), nn.GroupNorm(2, 8))
    make_flip_equivariant(layers)
    layers = randomised(layers.to(F64)).train(training)
    x = torch.randn(2, 3, 2 * size[0], 2 * size[1], dtype=F64)
    for i in range(1, len(layers) + 1):
        torch.testing.assert_close(layers[:i](x.flip(-1)), flipped(layers[:i](x)), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(flipped(layers(x)), layers(x))


@pytest.mark.parametrize("make", ["deq", "residual"])
@pytest.mark.parametrize("training", [False, True])
def test_an_image_and_its_mirror_image_have_the_same_logits(make, training):
    torch.manual_seed(0)
    network = deq() if make == "deq" else residual_net(**INFO, widths=[8, 12], stem=4, groups=2, flip_equivariant=True)
    network = randomised(network.to(F64)).train(training)
    images = torch.rand(5, 2, 16, 8, dtype=F64)
    torch.testing.assert_close(network(images.flip(-1)), network(images), rtol=1e-8, atol=1e-8)
    assert not torch.allclose(network(images.flip(-2)), network(images), rtol=1e-3)


def contractive(body="equilibrium", size=(16, 16), **settings):
    """With weights, statistics and a whitening that are not those of the start."""
    settings = {"widths": [4, 6], "flip_equivariant": True, "solver": Picard(tol=1e-12, max_steps=300)} | settings
    network = randomised(contractive_net(size, **INFO, body=body, **settings).to(F64))
    network.stem[0].fit(torch.rand(20, 2, 6, 6, dtype=F64))
    return network


@pytest.mark.parametrize("body", ["equilibrium", "once", "explicit"])
@pytest.mark.parametrize("training", [False, True])
def test_well_posed_networks_and_their_explicit_baselines(body, training):
    torch.manual_seed(0)
    network = contractive(body).train(training)
    other = copy.deepcopy(network)  # a forward in training takes the power iteration one step further
    images = torch.rand(5, 2, 16, 16, dtype=F64)
    torch.testing.assert_close(other(images.flip(-1)), network(images), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(network(images.flip(-2)), network(images), rtol=1e-3)


def test_tied_contractive_cells_contract():
    network = contractive().eval()
    for layer in network.equilibria:
        n = layer.cell.state[0] * layer.cell.state[1] * layer.cell.state[2]
        columns = layer.cell.multiply(layer.cell.weight(), torch.eye(n, dtype=F64).view(n, *layer.cell.state))
        norm = torch.linalg.matrix_norm(columns.view(n, n), 2).item()
        assert norm <= layer.cell.lipschitz() * (1 + 1e-9) < 1
        assert layer.certified


@pytest.mark.slow
def test_gradients_of_a_tied_contractive_network():
    network = contractive(widths=[2], size=(4, 4)).eval()
    names, values = zip(*network.named_parameters(), strict=True)
    images = torch.rand(2, 2, 4, 4, dtype=F64)

    def f(*values):
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (images,))

    assert torch.autograd.gradcheck(f, [value.detach().requires_grad_() for value in values])


def test_halving_of_an_even_width_cannot_treat_left_and_right_alike():
    with pytest.raises(ValueError, match="needs stages of an odd width"):
        contractive_net((32, 29), **INFO, widths=[4], flip_equivariant=True)


@pytest.mark.parametrize("entry_norm", ["group", "batch"])
def test_with_group_and_with_batch_normalisation(entry_norm):
    network = randomised(deq(entry_norm=entry_norm).to(F64)).eval()
    images = torch.rand(3, 2, 8, 8, dtype=F64)
    torch.testing.assert_close(network(images.flip(-1)), network(images), rtol=1e-8, atol=1e-8)


def test_tied_layers_have_half_the_parameters():
    tied, free = deq(), deq(flip_equivariant=False)
    for name in ("stem", "entries", "stages"):
        counts = [sum(p.numel() for p in getattr(network, name).parameters()) for network in (tied, free)]
        assert 2 * counts[0] == counts[1], name


def test_kernels_start_with_the_spread_of_free_ones():
    torch.manual_seed(0)
    free = nn.Conv2d(32, 64, 3, padding=1, bias=False)
    spread = free.weight.std().item()
    make_flip_equivariant(nn.Sequential(nn.Conv2d(1, 32, 3, bias=False), free))
    assert free.weight.std().item() == pytest.approx(spread, rel=0.05)


def test_a_batch_norm_of_pairs_has_the_statistics_of_both():
    norm = PairedBatchNorm2d(4)
    z = torch.randn(6, 4, 5, 5) * torch.tensor([1.0, 3.0, 0.1, 0.5])[:, None, None] + 2
    y = norm(z).unflatten(1, (2, 2))
    torch.testing.assert_close(y.mean(dim=(0, 2, 3, 4)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(dim=(0, 2, 3, 4), correction=0), torch.ones(2), rtol=0, atol=1e-2)


def test_gradients_of_a_tied_cell():
    stack = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), PlainConvCell(4, groups=2))
    make_flip_equivariant(stack)
    cell = stack[1].to(F64)
    names, values = zip(*cell.named_parameters(), strict=True)
    z, x = (torch.rand(2, 4, 3, 3, dtype=F64) for _ in range(2))

    def f(*values):
        return torch.func.functional_call(cell, dict(zip(names, values, strict=True)), (z, x))

    assert torch.autograd.gradcheck(f, [value.detach().requires_grad_() for value in values])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"widths": [8, 9], "groups": 1}, "even widths, got 9"),
        ({"widths": [8, 24], "groups": 8, "stem": 8}, "groups=8 of 24"),
        ({"entry_kernel": 3}, "entry_kernel=2"),
        ({"cell_options": {"weight_norm": True}}, "choose one"),
    ],
)
def test_what_cannot_be_tied_is_an_error(settings, told):
    with pytest.raises(ValueError, match=told):
        deq(**settings)


def test_a_layer_that_cannot_be_tied_is_an_error():
    with pytest.raises(ValueError, match="without bias"):
        make_flip_equivariant(nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(ValueError, match="without groups"):
        make_flip_equivariant(nn.Sequential(nn.Conv2d(4, 4, 1, groups=4, bias=False)))


def test_a_width_that_the_strides_do_not_divide_is_an_error():
    network = deq(stem=4, widths=[8, 12])
    with pytest.raises(ValueError, match="stride 2 got 7 pixels"):
        network(torch.rand(1, 2, 16, 14))
    network(torch.rand(1, 2, 14, 16))


def test_channels_last_stays_and_changes_nothing():
    torch.manual_seed(0)
    plain = randomised(deq().to(F64)).eval()
    images = torch.rand(3, 2, 8, 8, dtype=F64)
    expected = plain(images)
    last = plain.to(memory_format=torch.channels_last)
    seen = []
    for layer in (*last.stem, *last.entries):
        layer.register_forward_hook(lambda layer, inputs, z: seen.append(z))
    found = last(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert len(seen) == 4
    assert all(z.is_contiguous(memory_format=torch.channels_last) for z in seen)
    for stage in last.stages:
        assert stage.cell.conv1.weight.is_contiguous(memory_format=torch.channels_last)
