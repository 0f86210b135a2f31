"""A few labelled images to train on, beside others to choose hyperparameters by."""

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from deqzoo.data.config import DataConfig, FewImageDataConfig
from deqzoo.data.images import ImageData
from deqzoo.data.info import DataInfo, FewImageInfo
from deqzoo.data.loader import ImageLoader, TensorLoader, generator
from deqzoo.data.module import TensorData
from deqzoo.implicit.sending import send


class FewImageData(TensorData):
    """A small training set, a validation set that hyperparameters are learned by, and the official test set.

    ``train_size`` of the official training images are drawn, and ``val_size`` others. A training batch is all of both,
    ``repeats`` times per epoch: training images (N, C, H, W) float32 in [0, 1], labels (N,), validation images and
    labels. Validation and test batches are images and labels.

    Args:
        name: ``few_`` and a name of `deqzoo.data.DATASETS`.
        seed: of the draw of the training images; the validation and test images are the same always.
        options: the fields of `deqzoo.data.config.FewImageDataConfig`.

    >>> data = FewImageData("few_digits", train_size=100, val_size=50)
    >>> data.setup()
    >>> [tuple(part.shape) for part in next(iter(data.train_dataloader()))]
    [(100, 1, 8, 8), (100,), (50, 1, 8, 8), (50,)]
    """

    Config: ClassVar[type[DataConfig]] = FewImageDataConfig
    prefix: ClassVar[str] = "few"

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        chosen, start = self.options, f"{self.prefix}_"
        if not name.startswith(start):
            raise ValueError(
                f"there is no set of {self.prefix} images {name!r}; call it {start} and the name of the images"
            )
        self.source = ImageData(
            name.removeprefix(start), root=chosen.root, val_size=chosen.val_size, download=chosen.download
        )

    @property
    def info(self) -> DataInfo:
        """Shape and classes of the images."""
        return FewImageInfo(self.source.shape, self.source.classes)

    def prepare_data(self) -> None:
        """Download what is missing (Lightning calls this in one process of a machine)."""
        self.source.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the files, draw the training set."""
        if self.tensors is not None:
            return
        self.source.setup(stage)
        self._draw(generator(self.seed))
        self.tensors = self.source.tensors

    def training_labels(self) -> Tensor:
        """Labels of the training images, (N,)."""
        return self.source.labels[self.parts["train"]]

    def _draw(self, random: Generator) -> None:
        """Choose the training images."""
        available, wanted = self.source.parts["train"], self.options.train_size
        if wanted > len(available):
            raise ValueError(f"data.train_size={wanted} of {len(available)} images that are not held out; lower it")
        drawn = torch.randperm(len(available), generator=random)[:wanted]
        self.parts = self.source.parts | {"train": available[drawn]}

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> TensorLoader:
        """All of the training and the validation set in each batch if ``train``; else images and labels of a part."""
        assert self.tensors is not None
        images, labels = self.tensors
        white, chosen, held_out = self.source.spec.white, self.parts["train"], self.parts["val"]
        if not train:
            return ImageLoader(images, labels, self.parts[part], batch_size, white=white, **options)
        training = images[chosen].float() / white, self.training_labels()
        sets = *training, images[held_out].float() / white, labels[held_out]
        return WholeSet(sets, torch.arange(self.options.repeats), 1, shuffle=True, **options)


class WholeSet(TensorLoader):
    """The same batch, all of the tensors, once for each index of an epoch."""

    def _make_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        return tuple(send(tensor, self.device) for tensor in self.tensors)


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = FewImageDataConfig()
    code = "[`FewImageData`](../deqzoo/data/few_images.py)"
    return {
        "few_digits": [
            "few of scikit-learn's digits, and others to learn hyperparameters by",
            "1x8x8",
            "10",
            "200 / 600 / 360",
            "as `digits`",
            code,
            "scikit-learn",
            "CC BY 4.0",
        ],
        "few_mnist": [
            "few training images of MNIST, and others to learn hyperparameters by",
            "1x28x28",
            "10",
            f"{default.train_size:,} / {default.val_size:,} / 10,000",
            "as `mnist`",
            code,
            "MNIST",
            "CC BY-SA 3.0",
        ],
    }
