"""Data sets as LightningDataModules.

``config.py`` has the options, ``registry.py`` the sets; ``files.py`` finds and fetches their files,
``formats.py`` reads them; ``loader.py`` makes batches, ``augment.py`` changes them, and ``images.py`` joins
it all::

    data = ImageData("cifar10", batch_size=256, augment=Augment(crop=4, flip=True))
    lightning.Trainer().fit(module, datamodule=data)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deqzoo.data.config import Augment, ImageDataConfig
    from deqzoo.data.files import CorruptDataError, DataNotFoundError
    from deqzoo.data.images import ImageData
    from deqzoo.data.registry import DATASETS, data_table

_HOMES = {
    "Augment": "deqzoo.data.config",
    "CorruptDataError": "deqzoo.data.files",
    "DATASETS": "deqzoo.data.registry",
    "DataNotFoundError": "deqzoo.data.files",
    "ImageData": "deqzoo.data.images",
    "ImageDataConfig": "deqzoo.data.config",
    "data_table": "deqzoo.data.registry",
}

__all__ = [
    "DATASETS",
    "Augment",
    "CorruptDataError",
    "DataNotFoundError",
    "ImageData",
    "ImageDataConfig",
    "data_table",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use: the configuration reads this package without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'deqzoo.data' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
