"""Photographs that ship with scikit-learn and matplotlib, as colours at coordinates."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqzoo.data.config import DataConfig
from deqzoo.data.info import PictureInfo
from deqzoo.data.module import PassesData
from deqzoo.data.picture_config import PictureDataConfig

Pixels = NDArray[np.uint8]


def _of_scikit_learn(name: str) -> Pixels:
    from sklearn.datasets import load_sample_image

    image: Pixels = load_sample_image(f"{name}.jpg")
    return image


def _of_matplotlib(name: str) -> Pixels:
    from matplotlib.cbook import get_sample_data
    from PIL import Image

    with Image.open(str(get_sample_data(f"{name}.jpg", asfileobj=False))) as image:
        return np.asarray(image.convert("RGB"))


PICTURES: dict[str, Callable[[str], Pixels]] = {
    "china": _of_scikit_learn,
    "flower": _of_scikit_learn,
    "grace_hopper": _of_matplotlib,
}


LICENCES = "china by danielbuechele and flower by vultilion, both CC BY 2.0; grace_hopper public domain, US Navy"


def picture(name: str, side: int) -> Tensor:
    """A photograph, cut to a square about its middle and scaled: (3, side, side) float32 in [0, 1].

    Args:
        name: one of `PICTURES`: china, flower, grace_hopper.
        side: pixels of a side; each is the mean of those that it covers.

    >>> picture("china", 16).shape
    torch.Size([3, 16, 16])
    """
    from PIL import Image

    if name not in PICTURES:
        raise ValueError(f"there is no picture {name!r}; valid are {', '.join(PICTURES)}")
    pixels = PICTURES[name](name)
    height, width = pixels.shape[:2]
    cut = min(height, width)
    top, left = (height - cut) // 2, (width - cut) // 2
    square = Image.fromarray(pixels[top : top + cut, left : left + cut])
    small = np.asarray(square.resize((side, side), Image.Resampling.BOX))
    return torch.from_numpy(small.copy()).permute(2, 0, 1) / 255


def coordinates(side: int) -> Tensor:
    """The middles of the pixels of a picture, row after row: (side^2, 2) of rows and columns in [-1, 1].

    >>> coordinates(2)
    tensor([[-0.5000, -0.5000],
            [-0.5000,  0.5000],
            [ 0.5000, -0.5000],
            [ 0.5000,  0.5000]])
    """
    line = (2 * torch.arange(side) + 1) / side - 1
    return torch.cartesian_prod(line, line)


class PictureData(PassesData):
    """The three pictures at the same coordinates; a batch is coordinates (B, 2) and colours (B, pictures, 3).

    Training, validation and test have the same pixels, all that there are: pictures are represented, and nothing is
    predicted.

    Args:
        name: the set: ``pictures``.
        seed: of the order of the pixels.
        options: the fields of `deqzoo.data.config.PictureDataConfig`.

    >>> data = PictureData("pictures", side=16, batch_size=256)
    >>> data.setup()
    >>> [tuple(part.shape) for part in next(iter(data.train_dataloader()))]
    [(256, 2), (256, 3, 3)]
    """

    Config: ClassVar[type[DataConfig]] = PictureDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        if name != "pictures":
            raise ValueError(f"there is no set of pictures {name!r}; valid is pictures")
        if self.options.batch_size > self.options.side**2:
            raise ValueError(
                f"data.batch_size={self.options.batch_size} is more than the {self.options.side**2} pixels of "
                f"data.side={self.options.side}"
            )

    @property
    def info(self) -> PictureInfo:
        """Names and size."""
        return PictureInfo(tuple(PICTURES), self.options.side)

    def setup(self, stage: str | None = None) -> None:
        """Read the pictures."""
        if self.tensors is not None:
            return
        side = self.options.side
        colours = torch.stack([picture(name, side).flatten(1).T for name in PICTURES], dim=1)
        self.tensors = coordinates(side), colours
        whole = torch.arange(side**2)
        self.parts = {"train": whole, "val": whole, "test": whole}


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = PictureDataConfig()
    side = default.side
    cells = [
        f"{len(PICTURES)} photographs ({', '.join(PICTURES)}), each to be represented by a network",
        f"a pixel of 3x{side}x{side}",
        "none",
        f"all {side**2:,} pixels, in each part",
        "none",
        "[`picture`](../deqzoo/data/pictures.py)",
        "ship with scikit-learn (china, flower) and matplotlib (grace_hopper)",
        LICENCES,
    ]
    return {"pictures": cells}
