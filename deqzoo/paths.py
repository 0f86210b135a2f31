"""Where the zoo's own files lie: recipes, data sets and trained weights."""

from pathlib import Path
from typing import Literal


def zoo_path(kind: Literal["models", "data", "checkpoints"]) -> Path:
    """Folder of the zoo's recipes, data sets or checkpoints.

    An installed wheel carries the three folders inside the package (``deqzoo/_zoo``); in a checkout, and so
    in an editable install, they stand at top level beside the package.

    >>> zoo_path("models").name
    'models'
    """
    package = Path(__file__).resolve().parent
    installed = package / "_zoo" / kind
    return installed if installed.is_dir() else package.parent / kind
