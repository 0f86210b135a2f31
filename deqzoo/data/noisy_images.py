"""Labelled images of which many have a wrong label, beside clean ones: a set to be cleaned."""

from typing import ClassVar

import torch
from torch import Generator, Tensor

from deqzoo.data.config import DataConfig, NoisyImageDataConfig
from deqzoo.data.few_images import FewImageData
from deqzoo.data.info import NoisyImageInfo
from deqzoo.data.loader import generator


class NoisyImageData(FewImageData):
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
    prefix: ClassVar[str] = "noisy"

    noisy_labels: Tensor
    wrong: Tensor

    @property
    def info(self) -> NoisyImageInfo:
        """Shape, classes and number of the images."""
        return NoisyImageInfo(self.source.shape, self.source.classes, self.options.train_size)

    def training_labels(self) -> Tensor:
        """The noisy ones."""
        return self.noisy_labels

    def _draw(self, random: Generator) -> None:
        """Choose the training images and corrupt their labels, the same always."""
        random = generator(0)
        super()._draw(random)
        count, classes = self.options.train_size, len(self.source.classes)
        self.wrong = torch.randperm(count, generator=random) < round(self.options.corrupted * count)
        shift = torch.randint(1, classes, (count,), generator=random) * self.wrong
        self.noisy_labels = (super().training_labels() + shift) % classes


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
