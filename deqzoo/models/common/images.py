"""What the kinds of image classifiers have in common."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deqzoo.data.info import ImageInfo

if TYPE_CHECKING:
    pass


def symmetry_facts(model: Mapping[str, Any]) -> dict[str, str]:
    """What a reader of "without augmentation" should know."""
    return (
        {"symmetry": "flip-equivariant: an image and its mirror image have the same logits"}
        if model.get("flip_equivariant")
        else {}
    )


def image_example(info: ImageInfo, batch: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
    """Four images of a batch, or of noise."""
    if batch is not None:
        return {"images": batch[0][:4].cpu()}
    height, width = info.size or (32, 32)
    noise = torch.rand(4, info.in_channels, height, width, generator=torch.Generator().manual_seed(0))
    return {"images": noise}
