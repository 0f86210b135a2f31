"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each, from its two official archives."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqzoo.data.files import CorruptDataError

SIZE, DRAWINGS = 28, 20
ARCHIVES = {"images_background": 964, "images_evaluation": 659}  # characters in each


def read_omniglot(folder: Path) -> tuple[Tensor, list[str]]:
    """All drawings, (1623, 20, 1, 28, 28) uint8, black on white, and the characters' names, sorted in each archive.

    ``folder`` has the archives ``NAME.zip`` as they are published, or what was unpacked from them. The drawings of
    105 x 105 pixels are made smaller by averaging.

    Raises:
        CorruptDataError: a drawing is missing, or there is one too many.
    """
    images, names = [], []
    for archive, characters in ARCHIVES.items():
        pages: dict[str, list[NDArray[np.uint8]]] = {}
        for name, content in _drawings(folder / archive):
            pages.setdefault(name.rpartition("/")[0], []).append(_pixels(content))
        if len(pages) != characters or any(len(drawn) != DRAWINGS for drawn in pages.values()):
            raise CorruptDataError(
                f"{folder / archive} should hold {characters} characters with {DRAWINGS} drawings each; "
                f"found are {len(pages)} with {sum(map(len, pages.values()))} together. Fetch it anew."
            )
        stack = torch.from_numpy(np.stack([np.stack(drawn) for drawn in pages.values()]))
        small = torch.nn.functional.adaptive_avg_pool2d(stack.flatten(0, 1).float(), SIZE)
        images.append(small.round().to(torch.uint8).reshape(characters, DRAWINGS, 1, SIZE, SIZE))
        names += list(pages)
    return torch.cat(images), names


def _drawings(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name, from the archive's own folder on, and content of each drawing, sorted."""
    if archive.is_dir():
        for path in sorted(archive.rglob("*.png")):
            yield path.relative_to(archive).as_posix(), path.read_bytes()
        return
    with zipfile.ZipFile(archive.with_suffix(".zip")) as file:
        for name in sorted(name for name in file.namelist() if name.endswith(".png")):
            yield name.removeprefix(f"{archive.name}/"), file.read(name)


def _pixels(content: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))
