"""Where the zoo's own files lie: recipes, data sets and trained weights."""

import re
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


def head(name: str, label: str) -> str:
    """What comes after ``# Label:`` and on the lines indented below it; "" where there is no such label or recipe.

    >>> head("deq_digits", "Command")
    'python train.py'
    """
    recipe = zoo_path("models") / f"{name}.yaml"
    if not recipe.is_file():
        return ""
    match = re.search(rf"^# {label}: (.*(?:\n#   .*)*)", recipe.read_text(), re.MULTILINE)
    return " ".join(line.lstrip("# ") for line in match[1].splitlines()) if match else ""


def names(group: Literal["models", "data"]) -> list[str]:
    """The entries (``names("models")``) or data sets (``names("data")``) of the zoo, sorted.

    >>> "digits" in names("data")
    True
    """
    return sorted(path.stem for path in zoo_path(group).glob("*.yaml"))


def first_line(path: Path) -> str:
    """What a YAML file of the zoo says about itself: its first line, without the ``#``."""
    with path.open() as lines:
        return re.sub(r"^#\s*", "", lines.readline()).strip()
