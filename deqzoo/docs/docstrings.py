"""Docstrings as the reference shows them; ``docs/griffe_extension.py`` hands them over to mkdocstrings."""

import re
from pathlib import Path

_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
_EQUATION = re.compile(r"(\n\n(?: {4}.*\n?)+)")  # a block of its own: code, in Markdown
_NAME = re.compile(r"(?<![`\w])`(\w+)`(?!`)")
_REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def reference_names() -> dict[str, str]:
    """The short names that the reference documents, each with its full one."""
    pages = [page.read_text() for page in sorted(_REFERENCE.glob("*.md"))]
    return {
        name.rpartition(".")[2]: name for page in pages for name in re.findall(r"^::: (\S+)", page, flags=re.MULTILINE)
    }


def as_markdown(text: str, homes: dict[str, str]) -> str:
    """A docstring with its examples in fences and the names in ``homes`` as links.

    >>> print(as_markdown("Of `root`::", {"root": "deqzoo.root"}))
    Of [`root`][deqzoo.root]:
    """
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r"^(?![-*])(\S.*[^:\s])\n(?=    \S)", r"\1\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^Source: ", "**Source:** ", text, flags=re.MULTILINE)
    parts = _EQUATION.split(text)
    text = "".join(part if index % 2 else _linked(part, homes) for index, part in enumerate(parts))
    return _EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", text)


def _linked(text: str, homes: dict[str, str]) -> str:
    return _NAME.sub(lambda match: f"[`{match[1]}`][{homes[match[1]]}]" if match[1] in homes else match[0], text)
