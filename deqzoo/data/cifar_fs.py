"""CIFAR-FS: the hundred classes of CIFAR-100, split in 64 to train, 16 to validate and 20 to test on."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deqzoo.data.files import CorruptDataError

# The split of Bertinetto et al., "Meta-learning with differentiable closed-form solvers", 2019; the rest is to train.
VALIDATION = frozenset(
    {"beaver", "beetle", "butterfly", "camel", "cattle", "crab", "crocodile", "flatfish", "lamp", "maple_tree"}
    | {"motorcycle", "otter", "sea", "shark", "television", "tractor"}
)
TEST = frozenset(
    {"baby", "bed", "bicycle", "chimpanzee", "fox", "leopard", "man", "pickup_truck", "plain", "poppy", "rocket"}
    | {"rose", "snail", "sweet_pepper", "table", "telephone", "wardrobe", "whale", "woman", "worm"}
)
_NAMES, _RECORD = "fine_label_names.txt", 2 + 3 * 32 * 32
FILES = ("train.bin", "test.bin", _NAMES)


def read_cifar_fs(folder: Path) -> tuple[Tensor, list[str]]:
    """All images by class, (100, 600, 3, 32, 32) uint8, and the classes' names.

    ``folder`` has the official binary version: records of a coarse label, a fine label and 3 x 32 x 32 pixels, plane by
    plane. Training and test images of CIFAR-100 are taken together, as CIFAR-FS has them.

    Raises:
        CorruptDataError: the classes are not of equal size, or not the published ones.
    """
    contents = {name: (folder / name).read_bytes() for name in FILES[:2]}
    for name, content in contents.items():
        if len(content) % _RECORD:
            raise CorruptDataError(f"{folder / name} ends within a record: it is not whole. Fetch it anew.")
    records = [np.frombuffer(content, np.uint8).reshape(-1, _RECORD) for content in contents.values()]
    names = (folder / _NAMES).read_text().split()
    labels = np.concatenate([part[:, 1] for part in records])
    counts = np.bincount(labels)
    if len(counts) != len(names) or counts.min() != counts.max() or not set(names) >= (VALIDATION | TEST):
        raise CorruptDataError(f"{folder} does not hold the {len(names)} classes of CIFAR-100. Fetch it anew.")
    order = np.argsort(labels, kind="stable")
    pixels = np.concatenate([part[:, 2:] for part in records])[order]
    return torch.from_numpy(pixels).reshape(len(names), -1, 3, 32, 32), names
