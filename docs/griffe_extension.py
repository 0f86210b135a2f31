"""Hands the docstrings to mkdocstrings in the form that `deqzoo.docs.docstrings` gives them."""

from typing import Any

from griffe import Extension

from deqzoo.docs.docstrings import as_markdown, reference_names


class Docstrings(Extension):
    """An extension of Griffe, which reads the docstrings for mkdocstrings."""

    def __init__(self) -> None:
        super().__init__()
        self.homes = reference_names()

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called by Griffe for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value, self.homes)
