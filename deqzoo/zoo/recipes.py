"""What the head comment of a recipe, ``models/NAME.yaml``, says."""

import re

from deqzoo.paths import zoo_path


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
