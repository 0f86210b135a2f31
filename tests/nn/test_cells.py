"""The convolutional cells: shapes, their start as contractions, parameter counts, errors."""

import pytest
import torch
from torch.nn import functional as F

from deqzoo.implicit import spectral_radius
from deqzoo.nn import ConvCell, PlainConvCell


@pytest.mark.parametrize(("channels", "expansion", "groups"), [(8, 1.0, 8), (16, 2.0, 4), (6, 1.5, 3)])
def test_the_result_has_the_states_shape(channels, expansion, groups):
    cell = ConvCell(channels, expansion, groups)
    z, x = torch.randn(2, channels, 5, 7), torch.randn(2, channels, 5, 7)
    assert cell(z, x).shape == z.shape
    assert cell.conv1.weight.shape == (round(channels * expansion), channels, 3, 3)


def test_it_is_the_map_of_its_docstring():
    cell = ConvCell(8).double()
    z, x = torch.randn(2, 8, 4, 4).double(), torch.randn(2, 8, 4, 4).double()
    hidden = cell.norm1(torch.relu(cell.conv1(z)))
    expected = cell.norm3(torch.relu(z + cell.norm2(x + cell.conv2(hidden))))
    assert torch.equal(cell(z, x), expected)


def test_the_tutorials_cell_has_its_number_of_parameters():
    """48 -> 64 -> 48, 3x3, no bias, three affine group norms (eight groups divide both widths)."""
    cell = ConvCell(48, expansion=64 / 48, groups=8)
    assert sum(p.numel() for p in cell.parameters()) == 2 * 48 * 64 * 9 + 2 * (64 + 48 + 48)


def test_the_plain_cell_is_the_map_of_its_docstring():
    cell = PlainConvCell(8).double()
    z, x = torch.randn(2, 8, 4, 4).double(), torch.randn(2, 8, 4, 4).double()
    y = F.conv2d(z, cell.conv.weight, padding=1)
    groups = y.unflatten(1, (8, 1))
    mean, variance = groups.mean((2, 3, 4), keepdim=True), groups.var((2, 3, 4), correction=0, keepdim=True)
    normalised = ((groups - mean) / (variance + 1e-5).sqrt()).flatten(1, 2)
    assert torch.allclose(cell(z, x), torch.relu(x + 0.5 * normalised))
    assert sum(p.numel() for p in cell.parameters()) == 8 * 8 * 9 + 2 * 8


@pytest.mark.parametrize("make", [ConvCell, PlainConvCell])
def test_a_fresh_cell_contracts(make):
    torch.manual_seed(1)
    cell, x = make(16), torch.randn(3, 16, 6, 6)
    z = torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(50):
            z = cell(z, x)
    assert ((cell(z, x) - z).flatten(1).norm(dim=1) < 1e-3 * z.flatten(1).norm(dim=1)).all()
    assert (spectral_radius(cell, z, x, batch_dims=1) < 1).all()


@pytest.mark.parametrize("make", [ConvCell, PlainConvCell])
def test_each_sample_has_its_own_value(make):
    cell = make(8)
    z, x = torch.randn(3, 8, 4, 4), torch.randn(3, 8, 4, 4)
    together = cell(z, x)
    for i in range(3):
        assert torch.allclose(cell(z[i : i + 1], x[i : i + 1])[0], together[i], atol=1e-5)


@pytest.mark.parametrize("make", [ConvCell, PlainConvCell])
def test_dropout_is_off_in_eval_mode(make):
    cell = make(8, dropout=0.9)
    z, x = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    assert not torch.equal(cell(z, x), cell(z, x))
    cell.eval()
    assert torch.equal(cell(z, x), cell(z, x))


@pytest.mark.parametrize(("channels", "expansion"), [(12, 1.0), (16, 1.25)])
def test_groups_that_do_not_divide_the_widths_are_an_error_with_both_widths(channels, expansion):
    with pytest.raises(ValueError, match=rf"groups=8.*{channels}.*{round(channels * expansion)}"):
        ConvCell(channels, expansion)


def test_groups_that_do_not_divide_the_width_of_a_plain_cell_are_an_error():
    with pytest.raises(ValueError, match=r"groups=8.*12"):
        PlainConvCell(12)
