"""Random changes to a batch of training images, each image with its own draw, without a loop over images."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from deqzoo.data.config import Augment
from deqzoo.implicit.sending import send


def augment_images(images: Tensor, options: Augment, generator: Generator, colour: Tensor) -> Tensor:
    """Change a batch at random.

    The draws are made on the CPU, so that every device gets the same ones.

    Args:
        images: (B, C, H, W) float, on any device.
        options: what to do.
        generator: the CPU generator of all draws; it alone decides the outcome.
        colour: (C,) what ``cutout`` paints with.

    >>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
    >>> same = augment_images(x, Augment(), torch.Generator(), torch.zeros(1))
    >>> torch.equal(x, same)
    True
    """
    if options.rotate or options.translate:
        images = _rotate_and_translate(images, options, generator)
    if options.crop or options.flip:
        images = _crop_and_flip(images, options.crop, options.flip, generator)
    if options.cutout:
        images = _cutout(images, options.cutout, generator, colour)
    return images


def _rotate_and_translate(images: Tensor, options: Augment, generator: Generator) -> Tensor:
    """Resample bilinearly under a rotation about the centre and a shift."""
    n, _, height, width = images.shape
    draws = 2 * torch.rand(n, 3, generator=generator) - 1
    angle = draws[:, 0] * math.radians(options.rotate)
    shift = draws[:, 1:] * options.translate * 2 / torch.tensor([width, height])  # affine_grid's image spans [-1, 1]
    cos, sin, aspect = angle.cos(), angle.sin(), height / width
    rows = [cos, -sin * aspect, shift[:, 0], sin / aspect, cos, shift[:, 1]]
    theta = send(torch.stack(rows, 1).reshape(n, 2, 3), images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=options.padding_mode, align_corners=False)


def _crop_and_flip(images: Tensor, pad: int, flip: bool, generator: Generator) -> Tensor:
    """Cut a window of the same size out of the image padded by reflection, mirrored or not, by one gather."""
    n, _, height, width = images.shape
    if pad >= min(height, width):
        raise ValueError(f"data.augment.crop={pad} must be less than the sides of the images, {height} x {width}.")
    device = images.device
    offset = send(torch.randint(0, 2 * pad + 1, (n, 2), generator=generator), device)
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device).expand(n, width)
    if flip:
        mirrored = send(torch.rand(n, 1, generator=generator) < 0.5, device)
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows, columns = rows + offset[:, :1], columns + offset[:, 1:]
    batch = torch.arange(n, device=device)
    padded = F.pad(images, (pad, pad, pad, pad), mode="reflect")  # black borders would change the group statistics
    picked = padded[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return picked.permute(0, 3, 1, 2).contiguous()


def _cutout(images: Tensor, side: int, generator: Generator, colour: Tensor) -> Tensor:
    """Paint a square whose centre is anywhere in the image, so that it may hang over the edge."""
    n, channels, height, width = images.shape
    device = images.device
    top, left = (
        send(torch.randint(0, size, (n, 1), generator=generator), device) - side // 2 for size in (height, width)
    )
    rows, columns = torch.arange(height, device=device) - top, torch.arange(width, device=device) - left
    in_rows, in_columns = (rows >= 0) & (rows < side), (columns >= 0) & (columns < side)
    square = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    return torch.where(square, send(colour, device).view(1, channels, 1, 1), images)
