"""Images of the user's own: a folder per class, as torchvision's ImageFolder has them."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deqzoo.data.config import DataConfig, ImageFolderConfig
from deqzoo.data.files import CorruptDataError
from deqzoo.data.formats import Images, stratified_split
from deqzoo.data.images import ImageData
from deqzoo.data.info import ImageInfo
from deqzoo.data.module import TensorData
from deqzoo.errors import ConfigError

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
WHITE = 255
_SHARE = 5  # of the images without a part of their own, one in so many is for testing, and of the others for validation


class ImageFolderData(ImageData):
    """Images in ``ROOT/CLASS/NAME.png``, or in ``ROOT/train/CLASS``, ``ROOT/test/CLASS`` and ``ROOT/val/CLASS``.

    Each is scaled to ``size`` pixels of the shorter side and cut to a square about its middle. Where there is no
    ``test`` (no ``val``), a fifth of each class is held out for it, always the same images. All of them are kept in
    memory, as bytes.

    Args:
        name: ``folder``.
        seed: of the order and of the augmentation.
        options: the fields of `deqzoo.data.config.ImageFolderConfig`; ``root`` is the folder.

    Raises:
        ConfigError: there is no folder, or no two classes of images in it.
        CorruptDataError: a file is no image.
    """

    Config: ClassVar[type[DataConfig]] = ImageFolderConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        TensorData.__init__(self, name, seed=seed, **options)
        if name != "folder":
            raise ValueError(f"there is no folder of images {name!r}; valid is folder, with data.root=DIR")
        self.white = WHITE

    @property
    def info(self) -> ImageInfo:
        """Channels, classes, statistics, size and levels of the images."""
        _, classes, parts = self._found
        pixels = self._found[0].images[parts["train"]].astype(np.float64) / WHITE
        mean, std = (tuple(map(float, f(pixels, axis=(0, 2, 3)).round(4))) for f in (np.mean, np.std))
        size = self.options.size
        return ImageInfo(self.options.channels, classes, mean, std, (size, size), WHITE + 1)

    def prepare_data(self) -> None:
        """There is nothing to download."""

    def setup(self, stage: str | None = None) -> None:
        """Cut the images into parts; they are read with the first question for `info`."""
        if self.tensors is None:
            found, self.classes, parts = self._found
            self.mean = self.info.mean
            self.tensors = torch.from_numpy(found.images), torch.from_numpy(found.labels)
            self.parts = {part: torch.from_numpy(indices) for part, indices in parts.items()}

    @cached_property
    def _found(self) -> tuple[Images, tuple[str, ...], dict[str, NDArray[np.int64]]]:
        """All images, the classes, and the indices of each part."""
        root = self.options.root
        if root is None or not Path(root).expanduser().is_dir():
            raise ConfigError(
                f"data=folder needs data.root=DIR, a folder with a folder of images per class; got {root}."
            )
        top = Path(root).expanduser()
        train = top / "train" if (top / "train").is_dir() else top
        classes = tuple(sorted(path.name for path in train.iterdir() if path.is_dir() and any(_images(path))))
        if len(classes) < 2:
            raise ConfigError(
                f"{train} holds {len(classes)} folders of images; there must be one for each class, 2 or more."
            )
        images, labels, of_part, begin = [], [], {}, 0
        for part in ("train", "val", "test"):
            folder = train if part == "train" else top / part
            if part != "train" and (train == top or not folder.is_dir()):
                continue
            for label, name in enumerate(classes):
                found = [self._read(path) for path in sorted(_images(folder / name))]
                images += found
                labels += [label] * len(found)
            of_part[part], begin = np.arange(begin, len(images)), len(images)
        target = np.array(labels)
        return Images(np.stack(images), target, of_part.get("test", target[:0])), classes, self._split(of_part, target)

    def _split(self, parts: dict[str, NDArray[np.int64]], labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        for part in ("test", "val"):
            if part not in parts:
                given = self.options.val_size if part == "val" else None
                size = max(len(parts["train"]) // _SHARE, int(labels.max()) + 1) if given is None else given
                try:
                    parts["train"], parts[part] = stratified_split(parts["train"], labels, size)
                except ValueError as error:
                    raise ConfigError(f"{self.options.root}: {size} images cannot be held out ({error}).") from error
        return parts

    def _read(self, path: Path) -> NDArray[np.uint8]:
        size = self.options.size
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB" if self.options.channels == 3 else "L")
        except (UnidentifiedImageError, OSError) as error:
            raise CorruptDataError(f"{path} is no image that can be read ({error}): mend or delete it.") from error
        pixels = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC), np.uint8)
        return pixels.reshape(size, size, self.options.channels).transpose(2, 0, 1)


def _images(folder: Path) -> Iterable[Path]:
    return (path for path in folder.glob("*") if path.suffix.lower() in ENDINGS)


def rows() -> dict[str, list[str]]:
    """The rows of the table of `deqzoo.data.table`."""
    code = "[`ImageFolderData`](../deqzoo/data/image_folder.py)"
    parts = "64 % / 16 % / 20 %, or those of the folder"
    what = "Images of yours: `data.root=DIR`, a folder per class"
    return {"folder": [what, "3x32x32, or `data.size`", "those of the folder", parts, "none", code, "yours", "its own"]}
