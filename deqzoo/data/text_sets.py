"""The texts: what they are and where they come from. To add one, add its entry, and a recipe ``data/NAME.yaml``."""

from dataclasses import dataclass
from typing import ClassVar

from deqzoo.data.files import Archive, FileSet


@dataclass(frozen=True, kw_only=True)
class TextSet(FileSet):
    """A text, in one file that is split into its parts here, or in three files: for training, validation and test.

    Attributes:
        unit: what its tokens are, "characters" or "words".
        sizes: tokens of the training, validation and test part, for the table.
        characters: of the training part, where they are known without reading it, sorted.
    """

    instead: ClassVar[str] = "Use a text of your own: data=text_file data.file=PATH."

    unit: str
    sizes: str
    characters: str | None = None


OWN = "text_file"  # the set that is a file of the user's: data.file=PATH

TEXT_SETS: dict[str, TextSet] = {
    "shakespeare": TextSet(
        title="Tiny Shakespeare: 40,000 lines of his plays",
        unit="characters",
        sizes="1,003,854 / 55,770 / 55,770",
        source="https://github.com/karpathy/char-rnn (data/tinyshakespeare)",
        licence="public domain",
        megabytes=1,
        folder="text",
        files={"tinyshakespeare.txt": "6fb458f1232090904fb40fe944165e91"},
        archives=(
            Archive(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "6fb458f1232090904fb40fe944165e91",
                saved_as="tinyshakespeare.txt",
            ),
        ),
        characters="\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    ),
    "wikitext103": TextSet(
        title="WikiText-103: articles of Wikipedia; the files are not downloaded",
        unit="words",
        sizes="103,227,021 / 217,646 / 245,569",
        source="Merity et al., [arXiv:1609.07843](https://arxiv.org/abs/1609.07843)",
        licence="CC BY-SA 3.0",
        folder="wikitext-103",
        files={"wiki.train.tokens": None, "wiki.valid.tokens": None, "wiki.test.tokens": None},
    ),
    OWN: TextSet(
        title="Any text in UTF-8: `data.file=PATH`",
        unit="characters",
        sizes="90 % / 5 % / 5 %",
        source="a file of yours",
        licence="its own",
    ),
}


def text_set(name: str) -> TextSet:
    """The text of this name; an unknown name is a ValueError that lists the known ones."""
    if name not in TEXT_SETS:
        raise ValueError(f"there is no text {name!r}; valid names are {', '.join(sorted(TEXT_SETS))}")
    return TEXT_SETS[name]


def rows() -> dict[str, list[str]]:
    """The texts' rows of the table of `deqzoo.data.table`."""
    table = {}
    for name, spec in TEXT_SETS.items():
        size = f"{spec.megabytes} MB" if spec.archives else "none"
        classes = str(len(spec.characters)) if spec.characters else "those of the text"
        code = "[`TextData`](../deqzoo/data/text.py)"
        table[name] = [spec.title, spec.unit, classes, spec.sizes, size, code, spec.source, spec.licence]
    return table
