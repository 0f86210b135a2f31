"""What the kinds of models of images have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from deqzoo.data.info import ImageInfo
from deqzoo.nn.tensors import check_tensor


def symmetry_facts(model: Mapping[str, Any]) -> dict[str, str]:
    """What a reader of "without augmentation" should know."""
    return (
        {"symmetry": "flip-equivariant: an image and its mirror image have the same logits"}
        if model.get("flip_equivariant")
        else {}
    )


def check_images(images: Tensor, channels: int) -> None:
    """A `ValueError` names the mend where images are not floats (B, channels, height, width).

    >>> check_images(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 3)
    Traceback (most recent call last):
        ...
    ValueError: images are floats, of pixels in [0, 1]; got torch.uint8: divide those of 0 to 255 by 255
    """
    check_tensor("images", images)
    if not images.is_floating_point():
        raise ValueError(f"images are floats, of pixels in [0, 1]; got {images.dtype}: divide those of 0 to 255 by 255")
    if images.dim() != 4 or images.shape[1] != channels:
        one = ": images.unsqueeze(0) is a batch of one" if images.dim() == 3 else ""
        raise ValueError(f"images are (B, {channels}, height, width); got {tuple(images.shape)}{one}")


def image_example(info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
    """Four images of a batch, or of noise."""
    if batch is not None:
        return {"images": batch[0][:4].cpu()}
    height, width = info.size or (32, 32)
    noise = torch.rand(4, info.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    return {"images": noise}


def psnr_of(squared_error: Tensor) -> Tensor:
    """The peak signal-to-noise ratio, -10 log10 of a mean squared error (dB), of values in [0, 1].

    >>> psnr_of(torch.tensor([0.01, 0.001]))
    tensor([20., 30.])
    """
    return -10 * squared_error.log10()
