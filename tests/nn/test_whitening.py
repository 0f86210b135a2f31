"""Whitening of patches of images."""

import pytest
import torch

from deqzoo.nn.whitening import SMALLEST, Whitening

F64 = torch.float64


def patches(images):
    return images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_come_out_uncorrelated_and_of_unit_variance(symmetric, channels):
    images = torch.randn(40, channels, 7, 5, dtype=F64).cumsum(3)
    if symmetric:  # then it is the images and their mirror images that come out so
        images = torch.cat([images, images.flip(-1)])
    whitening = Whitening(channels, symmetric).to(F64)
    whitening.fit(images)
    out = whitening(images)[:, : 4 * channels].transpose(0, 1).flatten(1)
    moments = patches(images).T @ patches(images) / out.shape[1]
    variances = torch.linalg.eigvalsh(moments)
    found = out @ out.T / out.shape[1]
    torch.testing.assert_close(found, torch.diag(found.diag()), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.diag().sort().values, variances / (variances + SMALLEST), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fitted", [False, True])
def test_partners_are_what_the_mirror_image_shows(fitted):
    whitening = Whitening(3, symmetric=True).to(F64)
    torch.nn.init.normal_(whitening.bias)
    images = torch.randn(9, 3, 6, 8, dtype=F64)
    if fitted:
        whitening.fit(images)
    seen, mirrored = whitening(images), whitening(images.flip(-1))
    torch.testing.assert_close(mirrored, seen.flip(-1)[:, whitening.partners()], rtol=1e-10, atol=1e-10)


def test_symmetric_directions_span_all_patches():
    whitening = Whitening(2, symmetric=True)
    assert torch.linalg.matrix_rank(whitening.weight[:8].flatten(1)) == 8
    torch.testing.assert_close(whitening.weight[8:], -whitening.weight[:8])


def test_a_whitening_that_is_not_symmetric_has_no_partners():
    with pytest.raises(ValueError, match="only a symmetric whitening"):
        Whitening(3).partners()


@pytest.mark.parametrize("symmetric", [False, True])
def test_it_is_fitted_on_the_device_of_the_images(symmetric):
    whitening = Whitening(1, symmetric).to("meta")
    whitening.fit(torch.rand(2, 1, 4, 4, device="meta"))  # a tensor of the CPU among those is an error
    assert whitening.weight.is_meta
