"""Image classification data: a LightningDataModule over any set of the registry."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from deqzoo.data.augment import augment_images
from deqzoo.data.config import DataConfig, ImageDataConfig
from deqzoo.data.files import fetch, read_file
from deqzoo.data.formats import stratified_split
from deqzoo.data.info import ImageInfo
from deqzoo.data.loader import ImageLoader
from deqzoo.data.module import TensorData
from deqzoo.data.registry import image_set
from deqzoo.data.registry import rows as rows
from deqzoo.errors import ConfigError


class ImageData(TensorData):
    """A set of labelled images, in a fixed training, validation and test split.

    All images are one uint8 tensor, on the training device where it fits; batches are cut from it by index
    and changed on the device. They are ((B, C, H, W) float32 in [0, 1], (B,) int64).

    After `setup`, ``images`` (N, C, H, W) uint8 and ``labels`` (N,) hold all of the set, and ``parts`` the
    indices of "train", "val" and "test". ``classes``, ``shape``, ``mean``, ``std``, ``white`` are there from the start.

    Args:
        name: the set; `deqzoo.data.DATASETS` has them.
        seed: of the order and of the augmentation; the split does not depend on it.
        options: the fields of `deqzoo.data.ImageDataConfig`, such as ``root``, ``batch_size``, ``augment``;
            None means the default.

    Raises:
        ValueError: an unknown name, or a size that cannot be.
        DataNotFoundError, CorruptDataError: files are missing, or not the published ones (when the data are
            prepared or set up).

    >>> data = ImageData("digits", batch_size=64)
    >>> data.setup()
    >>> images, labels = next(iter(data.train_dataloader()))
    >>> images.shape, len(data.classes)
    (torch.Size([64, 1, 8, 8]), 10)
    """

    Config: ClassVar[type[DataConfig]] = ImageDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        self.spec = image_set(name)
        self.classes, self.shape = self.spec.classes, self.spec.shape
        self.mean, self.std, self.white = self.spec.mean, self.spec.std, self.spec.white

    @property
    def info(self) -> ImageInfo:
        """Channels, classes, statistics, size and levels of the images."""
        return ImageInfo(self.shape[0], self.classes, self.mean, self.std, self.shape[1:], self.white + 1)

    @property
    def images(self) -> Tensor:
        """All images, (N, C, H, W) uint8, once the data are set up."""
        assert self.tensors is not None, "call setup() first"
        return self.tensors[0]

    @property
    def labels(self) -> Tensor:
        """All labels, (N,) int64, once the data are set up."""
        assert self.tensors is not None, "call setup() first"
        return self.tensors[1]

    def prepare_data(self) -> None:
        """Download what is missing (Lightning calls this in one process of a machine)."""
        fetch(self.spec, self.options.root, download=self.options.download)

    def setup(self, stage: str | None = None) -> None:
        """Read the files and split the images; whatever the ``stage``, all parts are there afterwards."""
        if self.tensors is not None:
            return
        folder = fetch(self.spec, self.options.root, download=False)
        images, labels, test = self.spec.read(lambda name: read_file(folder, name, self.spec.files[name]))
        rest = np.setdiff1d(np.arange(len(labels)), test)
        train, val = stratified_split(rest, labels, self._val_size(len(rest)))
        # A reader of bytes gives arrays that are not to be written to: of these, copies.
        self.tensors = (
            torch.from_numpy(np.require(images, requirements=["C", "W"])),
            torch.from_numpy(np.require(labels, requirements=["C", "W"])),
        )
        self.parts = {
            "train": torch.from_numpy(train),
            "val": torch.from_numpy(val),
            "test": torch.from_numpy(test),
        }

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> ImageLoader:
        """Batches of float images, augmented if ``train``."""
        transform = self._augment if train else None
        white, indices = self.white, self.parts[part]
        return ImageLoader(
            self.images,
            self.labels,
            indices,
            batch_size,
            white=white,
            alternating_flip=train and self.options.augment.alternating_flip,
            transform=transform,
            shuffle=train,
            **options,
        )

    def _val_size(self, available: int) -> int:
        size = self.spec.val_size if self.options.val_size is None else self.options.val_size
        if 0 < size < len(self.classes) or size > available - len(self.classes):
            raise ConfigError(
                f"data.val_size={size} cannot be cut from {available} images of {len(self.classes)} classes; "
                f"it may be 0, or from {len(self.classes)} to {available - len(self.classes)}"
            )
        return size

    def _augment(self, images: Tensor, generator: Generator) -> Tensor:
        return augment_images(images, self.options.augment, generator, torch.tensor(self.mean))
