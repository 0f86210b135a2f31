"""Readers of the file formats in which the data sets are published, by NumPy alone (nothing is unpickled).

A reader gets ``content``, which gives the verified bytes of a file of the set, and returns `Images`.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Content = Callable[[str], bytes]


class Images(NamedTuple):
    """All images of a set, and which of them are for testing.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        test: (T,) int64, indices of the test images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    test: NDArray[np.int64]


def read_digits(content: Content) -> Images:
    """The 8x8 digits that ship with scikit-learn; 20 % of each class are for testing, always the same."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    _, test = stratified_split(np.arange(len(labels)), labels, 360)
    return Images(bunch.images[:, None].astype(np.uint8), labels, test)


def read_cifar10(content: Content) -> Images:
    """The binary version: records of one label byte and 3 x 32 x 32 pixel bytes, plane by plane."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    batches = [np.frombuffer(content(name), np.uint8).reshape(-1, 3073) for name in names]
    records = np.concatenate(batches)
    images = np.ascontiguousarray(records[:, 1:]).reshape(-1, 3, 32, 32)
    return Images(images, records[:, 0].astype(np.int64), _last(len(records), len(batches[-1])))


def read_cifar100(content: Content) -> Images:
    """The binary version: records of a coarse label, which is left out, a fine one, and 3 x 32 x 32 pixel bytes."""
    parts = [np.frombuffer(content(name), np.uint8).reshape(-1, 3074) for name in ("train.bin", "test.bin")]
    records = np.concatenate(parts)
    images = np.ascontiguousarray(records[:, 2:]).reshape(-1, 3, 32, 32)
    return Images(images, records[:, 1].astype(np.int64), _last(len(records), len(parts[-1])))


def read_svhn(content: Content) -> Images:
    """Two files of MATLAB's: X (32, 32, 3, N) and y (N, 1), where the digit 0 has the label 10."""
    from scipy.io import loadmat

    parts = [loadmat(io.BytesIO(content(f"{part}_32x32.mat"))) for part in ("train", "test")]
    images = np.concatenate([part["X"].transpose(3, 2, 0, 1) for part in parts])
    labels = np.concatenate([part["y"].reshape(-1) for part in parts]).astype(np.int64) % 10
    return Images(np.ascontiguousarray(images), labels, _last(len(labels), len(parts[-1]["y"])))


def read_mnist(content: Content) -> Images:
    """Four idx files: images and labels of the training and the test set."""
    images = [parse_idx(content(f"{part}-images-idx3-ubyte"))[:, None] for part in ("train", "t10k")]
    labels = [parse_idx(content(f"{part}-labels-idx1-ubyte")) for part in ("train", "t10k")]
    test = _last(len(labels[0]) + len(labels[1]), len(labels[1]))
    return Images(np.concatenate(images), np.concatenate(labels).astype(np.int64), test)


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """The array of an idx file of bytes: 0, 0, type 8, number of axes, big-endian lengths, then the values.

    >>> parse_idx(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9]))
    array([[7, 8, 9]], dtype=uint8)
    """
    axes = data[3]
    shape = np.frombuffer(data, ">u4", count=axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def stratified_split(
    indices: NDArray[np.int64], labels: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split ``indices`` in two, the second of ``size``, with each class in proportion; the same split always.

    Both parts are sorted. The seed is fixed: no run's seed ever moves an image from one part to the other.
    """
    if size == 0:
        return np.sort(indices), indices[:0]
    from sklearn.model_selection import train_test_split

    rest, held_out = train_test_split(indices, test_size=size, stratify=labels[indices], random_state=0)
    return np.sort(rest), np.sort(held_out)


def _last(n: int, count: int) -> NDArray[np.int64]:
    """Indices of the last ``count`` of ``n`` images: the test set stands behind the training set."""
    return np.arange(n - count, n)
