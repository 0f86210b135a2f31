"""Image classification data: a LightningDataModule over any set of the registry."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Generator, Tensor

from deqzoo.data.augment import augment_images
from deqzoo.data.config import ImageDataConfig
from deqzoo.data.files import fetch, read_file
from deqzoo.data.formats import stratified_split
from deqzoo.data.loader import ImageLoader
from deqzoo.data.registry import image_set


class ImageData(LightningDataModule):
    """A set of labelled images, in a fixed training, validation and test split.

    All images are one uint8 tensor, on the training device where it fits; batches are cut from it by index
    and changed on the device. They are ((B, C, H, W) float32 in [0, 1], (B,) int64).

    After `setup`, ``images`` (N, C, H, W) uint8 and ``labels`` (N,) hold all of the set, and ``parts`` the
    indices of "train", "val" and "test". ``classes``, ``shape``, ``mean``, ``std`` are there from the start.

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

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__()
        valid = {field.name for field in fields(ImageDataConfig)} - {"kind", "name"}
        if unknown := set(options) - valid:
            raise TypeError(f"ImageData has no option {min(unknown)!r}; valid are {', '.join(sorted(valid))}")
        given = {key: value for key, value in options.items() if value is not None}
        self.options = ImageDataConfig(name=name, **given)
        self.seed = seed
        self.spec = image_set(name)
        self.classes, self.shape = self.spec.classes, self.spec.shape
        self.mean, self.std = self.spec.mean, self.spec.std
        self.images: Tensor | None = None
        self._train: ImageLoader | None = None
        self._state: dict[str, Any] = {}

    def prepare_data(self) -> None:
        """Download what is missing (Lightning calls this in one process of a machine)."""
        fetch(self.spec, self.options.root, download=self.options.download)

    def setup(self, stage: str | None = None) -> None:
        """Read the files and split the images; whatever the ``stage``, all parts are there afterwards."""
        if self.images is not None:
            return
        folder = fetch(self.spec, self.options.root, download=False)
        images, labels, test = self.spec.read(lambda name: read_file(folder, name, self.spec.files[name]))
        rest = np.setdiff1d(np.arange(len(labels)), test)
        train, val = stratified_split(rest, labels, self._val_size(len(rest)))
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)
        self.parts = {
            "train": torch.from_numpy(train),
            "val": torch.from_numpy(val),
            "test": torch.from_numpy(test),
        }

    def train_dataloader(self) -> ImageLoader:
        """Shuffled and augmented batches; Lightning's ``overfit_batches`` turns both off."""
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        self._train = self._loader("train", self.options.batch_size, train=not overfit)
        if self._state:
            self._train.load_state_dict(self._state)
            self._state = {}
        return self._train

    def val_dataloader(self) -> ImageLoader | list[ImageLoader]:
        """The validation images, in order; no loader if ``val_size`` is 0."""
        loader = self._loader("val", self.options.eval_batch_size)
        return loader if len(loader) else []

    def test_dataloader(self) -> ImageLoader:
        """The test images, in order."""
        return self._loader("test", self.options.eval_batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Where the training data stand, for a checkpoint.

        Lightning also saves the loader's state by itself, but restores that only in the middle of an epoch.
        """
        return {} if self._train is None else self._train.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next `train_dataloader` go on where ``state_dict`` was taken."""
        self._state = state_dict

    def _val_size(self, available: int) -> int:
        size = self.spec.val_size if self.options.val_size is None else self.options.val_size
        if 0 < size < len(self.classes) or size > available - len(self.classes):
            raise ValueError(
                f"data.val_size={size} cannot be cut from {available} images of {len(self.classes)} classes; "
                f"it may be 0, or from {len(self.classes)} to {available - len(self.classes)}"
            )
        return size

    def _loader(self, part: str, batch_size: int, train: bool = False) -> ImageLoader:
        if self.images is None:
            raise RuntimeError("the data are not set up: call setup() first (a Trainer does so by itself)")
        trainer = self.trainer
        device = torch.device("cpu") if trainer is None else trainer.strategy.root_device
        if self.options.device_cache and _fits(self.images, device):
            self.images, self.labels = self.images.to(device), self.labels.to(device)
        return ImageLoader(
            self.images,
            self.labels,
            self.parts[part],
            batch_size,
            white=self.spec.white,
            device=device,
            shuffle=train,
            transform=self._augment if train else None,
            seed=self.seed,
            rank=0 if trainer is None else trainer.global_rank,
            world_size=1 if trainer is None else trainer.world_size,
        )

    def _augment(self, images: Tensor, generator: Generator) -> Tensor:
        return augment_images(images, self.options.augment, generator, torch.tensor(self.mean))


def _fits(images: Tensor, device: torch.device) -> bool:
    """Whether the images take at most a quarter of the device's free memory."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return images.nbytes <= free / 4
