"""Labelled images of which many have a wrong label, beside clean ones: a set to be cleaned."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from deqzoo.data.config import DataConfig, NoisyImageDataConfig
from deqzoo.data.images import ImageData
from deqzoo.data.info import NoisyImageInfo
from deqzoo.data.loader import ImageLoader, TensorLoader, generator
from deqzoo.data.module import TensorData
from deqzoo.implicit.sending import send


class NoisyImageData(TensorData):
    """A training set with wrong labels, a clean set to judge by, and the official test set.

    ``train_size`` of the official training images are drawn, and ``val_size`` others, the same always. Of the former
    the fraction ``corrupted`` has a label drawn from the wrong ones. A training batch is all of it, ``repeats``
    times per epoch: training images (N, C, H, W) float32 in [0, 1], labels (N,), clean images and labels. Validation
    and test batches are images and true labels.

    Args:
        name: ``noisy_`` and a name of `deqzoo.data.DATASETS`.
        seed: of nothing: there is no order.
        options: the fields of `deqzoo.data.config.NoisyImageDataConfig`.

    Attributes:
        noisy_labels: (N,), of the training images.
        wrong: (N,), which of them are.

    >>> data = NoisyImageData("noisy_digits", train_size=100, val_size=50)
    >>> data.setup()
    >>> [tuple(part.shape) for part in next(iter(data.train_dataloader()))]
    [(100, 1, 8, 8), (100,), (50, 1, 8, 8), (50,)]
    """

    Config: ClassVar[type[DataConfig]] = NoisyImageDataConfig

    noisy_labels: Tensor
    wrong: Tensor

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        chosen = self.options
        if not name.startswith("noisy_"):
            raise ValueError(f"there is no set of noisy images {name!r}; call it noisy_ and the name of the images")
        self.source = ImageData(
            name.removeprefix("noisy_"), root=chosen.root, val_size=chosen.val_size, download=chosen.download
        )

    @property
    def info(self) -> NoisyImageInfo:
        """Shape, classes and number of the images."""
        return NoisyImageInfo(self.source.shape, self.source.classes, self.options.train_size)

    def prepare_data(self) -> None:
        """Download what is missing (Lightning calls this in one process of a machine)."""
        self.source.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the files, draw the training set, corrupt its labels."""
        if self.tensors is not None:
            return
        self.source.setup(stage)
        self.tensors, self.parts = self.source.tensors, dict(self.source.parts)
        available, wanted = self.parts["train"], self.options.train_size
        if wanted > len(available):
            raise ValueError(f"data.train_size={wanted} of {len(available)} images that are not held out; lower it")
        random = generator(0)
        chosen = available[torch.randperm(len(available), generator=random)[:wanted]]
        self.parts["train"] = chosen
        classes = len(self.source.classes)
        self.wrong = torch.randperm(wanted, generator=random) < round(self.options.corrupted * wanted)
        shift = torch.randint(1, classes, (wanted,), generator=random) * self.wrong
        self.noisy_labels = (self.source.labels[chosen] + shift) % classes

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> TensorLoader:
        """All of the training and the clean set in each batch if ``train``; else images and labels of a part."""
        assert self.tensors is not None
        images, labels = self.tensors
        white, chosen, clean = self.source.spec.white, self.parts["train"], self.parts["val"]
        if not train:
            return ImageLoader(images, labels, self.parts[part], batch_size, white=white, **options)
        sets = (images[chosen].float() / white, self.noisy_labels, images[clean].float() / white, labels[clean])
        return WholeSet(sets, torch.arange(self.options.repeats), 1, shuffle=True, **options)


class WholeSet(TensorLoader):
    """The same batch, all of the tensors, once for each index of an epoch."""

    def _make_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        return tuple(send(tensor, self.device) for tensor in self.tensors)


def rows() -> dict[str, list[str]]:
    """The set's row of the table of `deqzoo.data.table`."""
    default = NoisyImageDataConfig()
    parts = f"{default.train_size:,} / {default.val_size:,} / 10,000"
    return {
        "noisy_mnist": [
            f"MNIST, {default.corrupted:.0%} of the training labels wrong, and a clean set",
            "1x28x28",
            "10",
            parts,
            "as `mnist`",
            "[`NoisyImageData`](../deqzoo/data/noisy_images.py)",
            "MNIST; Franceschi et al., [arXiv:1703.01785](https://arxiv.org/abs/1703.01785)",
            "CC BY-SA 3.0",
        ]
    }
