"""Augmentation: what each change may do to an image, and that the generator alone decides it."""

import math

import pytest
import torch
from torch.nn import functional as F

from deqzoo.data.augment import augment_images
from deqzoo.data.config import Augment
from deqzoo.data.loader import generator

BLACK = torch.zeros(3)


def apply(images, seed=0, colour=BLACK, **options):
    return augment_images(images, Augment(**options), generator(seed), colour[: images.shape[1]])


def centre(images):
    """Centroid of each image in pixels from the middle, (B, 2) as (x, y)."""
    h, w = images.shape[2:]
    x = torch.arange(w) - (w - 1) / 2
    y = torch.arange(h) - (h - 1) / 2
    mass = images.sum((1, 2, 3))
    return torch.stack([(images.sum((1, 2)) * x).sum(1), (images.sum((1, 3)) * y).sum(1)], 1) / mass[:, None]


def dots(n, x, y, size=33):
    """``n`` images with a small blob at (x, y) from the middle."""
    grid = torch.arange(size) - (size - 1) / 2
    blob = torch.exp(-((grid[None, :] - x) ** 2 + (grid[:, None] - y) ** 2) / 4)
    return blob.expand(n, 1, size, size).contiguous()


def test_nothing_asked_nothing_done():
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(apply(images), images)


def test_the_generator_alone_decides():
    images = torch.rand(16, 3, 12, 12)
    everything = {"rotate": 10.0, "translate": 1.0, "crop": 2, "flip": True, "cutout": 4}
    torch.rand(100)  # the global stream plays no part
    first = apply(images, seed=1, **everything)
    torch.rand(7)
    assert torch.equal(first, apply(images, seed=1, **everything))
    assert not torch.equal(first, apply(images, seed=2, **everything))
    assert first.shape == images.shape
    assert first.is_contiguous()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pad", [0, 1, 3])
def test_crop_and_flip_give_each_window_of_the_padded_image(pad, flip):
    n, size = 1200, 7  # as large that no mirrored window is another one of the image padded by reflection
    image = torch.rand(1, 2, size, size + 1)
    out = apply(image.expand(n, -1, -1, -1), crop=pad, flip=flip)
    padded = F.pad(image, (pad,) * 4, mode="reflect")
    windows = [padded[0, :, i : i + size, j : j + size + 1] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    if flip:
        windows += [window.flip(-1) for window in windows]
    hits = torch.stack([(out == window).flatten(1).all(1) for window in windows])
    assert (hits.sum(0) == 1).all(), "each result is one of the windows"
    expected = n / len(windows)
    assert (hits.sum(1) > 0).all(), "each window occurs"
    assert ((hits.sum(1) - expected).abs() < 6 * math.sqrt(expected)).all(), "and about as often as any other"


def test_crop_keeps_the_statistics_of_a_batch():
    """Cells with group normalisation notice black borders: their fixed points on whole images would be other ones."""
    images = 0.4 + 0.2 * torch.rand(200, 3, 32, 32)
    out = apply(images, crop=4)
    torch.testing.assert_close(out.mean(), images.mean(), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.std(), images.std(), atol=1e-3, rtol=0)


def test_crop_must_be_less_than_the_image():
    with pytest.raises(ValueError, match=r"data\.augment\.crop=5 must be less than the sides of the images, 5 x 6"):
        apply(torch.rand(2, 1, 5, 6), crop=5)


def test_rotation_keeps_radius_and_stays_within_the_angle():
    moved = centre(apply(dots(200, x=8.0, y=0.0), rotate=30.0))
    angle = torch.rad2deg(torch.atan2(moved[:, 1], moved[:, 0]))
    torch.testing.assert_close(moved.norm(dim=1), torch.full((200,), 8.0), atol=0.1, rtol=0)
    assert angle.abs().max() <= 30.5
    assert angle.max() > 25
    assert angle.min() < -25


def test_what_comes_from_outside_is_black_or_as_the_edge():
    """With ``border``, white paper stays white, and black black."""
    paper = torch.ones(20, 1, 12, 12)
    paper[:, :, 4:8, 4:8] = 0.0
    moved = apply(paper, rotate=45.0, translate=3.0, padding_mode="border")
    edge = torch.cat([moved[..., 0, :], moved[..., -1, :], moved[..., 0], moved[..., -1]], dim=-1)
    assert (edge.flatten(1).median(1).values == 1).all()
    assert (moved[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == 1).all()
    black = apply(1 - paper, rotate=45.0, translate=3.0, padding_mode="border")
    torch.testing.assert_close(black, 1 - moved)
    framed = apply(paper, rotate=45.0, translate=3.0)
    assert (framed[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].flatten(1).amin(1) == 0).all()
    torch.testing.assert_close(apply(1 - paper, rotate=45.0, translate=3.0), black)


def test_rotation_keeps_circles_in_oblong_images():
    square = dots(50, x=0.0, y=6.0)
    oblong = F.pad(square, (10, 10))
    moved = centre(apply(oblong, rotate=45.0))
    torch.testing.assert_close(moved.norm(dim=1), torch.full((50,), 6.0), atol=0.1, rtol=0)


def test_translation_moves_by_fractions_of_a_pixel():
    moved = centre(apply(dots(200, x=0.0, y=0.0), translate=2.5))
    assert moved.abs().max() <= 2.55
    assert moved.amax(0).min() > 2
    assert moved.amin(0).max() < -2
    assert (moved - moved.round()).abs().max() > 0.3


def test_cutout_paints_one_square_that_may_hang_over_the_edge():
    colour = torch.tensor([0.2, 0.4, 0.6])
    out = apply(torch.ones(300, 3, 8, 8), cutout=3, colour=colour)
    painted = (out == colour.view(1, 3, 1, 1)).all(1)
    assert ((out == 1).all(1) | painted).all()
    heights, widths = painted.any(2).sum(1), painted.any(1).sum(1)
    assert torch.equal(painted.sum((1, 2)), heights * widths), "a rectangle"
    assert heights.max() == 3
    assert heights.min() == 2, "its centre stays inside the image"
    assert painted.any(0).all(), "it comes everywhere"


def test_options_must_not_be_negative():
    with pytest.raises(ValueError, match=r"augment\.crop must not be negative, got -1"):
        Augment(crop=-1)
    with pytest.raises(ValueError, match=r"augment\.padding_mode must be zeros or border, got 'reflection'"):
        Augment(padding_mode="reflection")
