"""Pixels as real numbers: dequantisation, and maps that know their slope and their inverse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jacrev

from deqzoo.models.flow.pixels import Gaussianization, Logit, dequantize

F64 = torch.float64


def digits(n, levels=17):
    """Images of 2x2 pixels whose values are 0 to 1 in equal steps; the first pixel is nearly always 0."""
    random = torch.Generator().manual_seed(1)
    values = torch.randint(0, levels, (n, 1, 2, 2), generator=random)
    values[1:, 0, 0, 0] = 0
    return values / (levels - 1)


def gaussianization(levels=17):
    pixels = Gaussianization((1, 2, 2), levels)
    pixels.fit(digits(300, levels))
    return pixels.double()


def test_dequantised_pixels_stay_in_their_interval():
    images = torch.arange(17).view(1, 1, 1, 17).expand(500, 1, 1, 17) / 16
    x = dequantize(images, 17, torch.Generator().manual_seed(0))
    assert torch.equal((x * 17).floor(), (images * 16).round())
    torch.testing.assert_close((x * 17 - images * 16).mean(), torch.tensor(0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "make", [lambda: Logit(1e-6), lambda: Logit(0.05), gaussianization, lambda: Gaussianization((1, 2, 2), 17).double()]
)
def test_slope_and_inverse(make):
    pixels, x = make(), torch.rand(3, 1, 2, 2, dtype=F64)
    y, slope = pixels(x)
    torch.testing.assert_close(pixels.inverse(y), x)
    for sample, expected in zip(x, slope, strict=True):
        jacobian = jacrev(lambda x: pixels(x[None])[0][0])(sample).reshape(4, 4)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], expected)


def test_gaussianized_pixels_are_standard_normal():
    """Each alone, whatever its distribution: also one that is nearly always the same."""
    images = digits(20_000)
    pixels = Gaussianization((1, 2, 2), 17)
    pixels.fit(images)
    y, _ = pixels(dequantize(images, 17, torch.Generator().manual_seed(0)))
    y = y.flatten(1)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        # Five standard errors of the mean of y^4, whose variance is 96.
        torch.testing.assert_close(
            y.pow(power).mean(0), torch.full((4,), moment), atol=5 * (96 / 20_000) ** 0.5, rtol=0
        )


@given(levels=st.integers(2, 256), seed=st.integers(0, 100))
def test_density_of_a_gaussianized_pixel_is_its_histogram(levels, seed):
    """With a standard normal density, the probability of each level is its share of the counts."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, levels, (50, 1, 1, 1), generator=random) / (levels - 1)
    pixels = Gaussianization((1, 1, 1), levels, pseudo_count=0.5).double()
    pixels.fit(images)
    x = (torch.arange(levels, dtype=F64) + 0.5).view(-1, 1, 1, 1) / levels
    y, slope = pixels(x)
    log_density = torch.distributions.Normal(0.0, 1.0).log_prob(y).flatten() + slope
    counts = torch.bincount((images.flatten() * (levels - 1)).round().long(), minlength=levels) + 0.5
    torch.testing.assert_close(log_density.exp() / levels, counts.double() / counts.sum())


def test_edges_stay_finite():
    pixels = gaussianization().float()
    y, slope = pixels(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2))
    assert slope.isfinite().all()
    assert ((y[0] < -5) & (y[0] > -7)).all()
    assert ((y[1] > 5) & (y[1] < 7)).all()
    assert pixels.inverse(torch.tensor([-40.0, 40.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)).tolist() == [
        [[[0.0, 0.0], [0.0, 0.0]]],
        [[[1.0, 1.0], [1.0, 1.0]]],
    ]


def test_alpha_lies_in_the_open_interval():
    with pytest.raises(ValueError, match="alpha=0 must lie between 0 and 1/2"):
        Logit(0)
