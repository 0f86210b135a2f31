"""Text as numbers: characters or words, and the vocabulary that numbers them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

UNKNOWN, NEWLINE = "<unk>", "\n"
UNITS = ("characters", "words")


def split(text: str, unit: str) -> Iterator[str]:
    r"""The tokens of a text: its characters, or its words, which white space divides, and the ends of lines.

    >>> list(split("to be", "characters")), list(split("to  be\nor", "words"))
    (['t', 'o', ' ', 'b', 'e'], ['to', 'be', '\n', 'or'])
    """
    if unit == "characters":
        return iter(text)
    return (found[0] for found in re.finditer(rf"\S+|{NEWLINE}", text))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that a model knows; a token's number is its place.

    Attributes:
        tokens: the first is `UNKNOWN`, which stands for all others.
        unit: "characters" or "words".

    >>> vocabulary = Vocabulary.of("abba", "characters")
    >>> vocabulary.tokens, vocabulary.encode("back").tolist(), vocabulary.decode([1, 2])
    (('<unk>', 'a', 'b'), [2, 1, 0, 0], 'ab')
    """

    tokens: tuple[str, ...]
    unit: str = "characters"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unit={self.unit!r}: valid are {', '.join(UNITS)}")
        if self.tokens[:1] != (UNKNOWN,) or len(set(self.tokens)) != len(self.tokens):
            raise ValueError(f"tokens must begin with {UNKNOWN!r} and be distinct")

    @classmethod
    def of(cls, text: str, unit: str, min_count: int = 1) -> Self:
        """All tokens of a text that it has at least ``min_count`` times, sorted."""
        counts = Counter(split(text, unit))
        counts.pop(UNKNOWN, None)  # some published texts have it
        return cls((UNKNOWN, *sorted(token for token, count in counts.items() if count >= min_count)), unit)

    def __len__(self) -> int:
        """Tokens, `UNKNOWN` included."""
        return len(self.tokens)

    @property
    def characters(self) -> list[int]:
        """Characters that each token stands for: a word has the space or newline after it, and a newline none."""
        if self.unit == "characters":
            return [1] * len(self)
        return [0 if token == NEWLINE else len(token) + 1 for token in self.tokens]

    def encode(self, text: str) -> Tensor:
        """The numbers of a text's tokens, (T,) int64; 0 where a token is not known."""
        numbers = (self._places.get(token, 0) for token in split(text, self.unit))
        return torch.from_numpy(np.fromiter(numbers, np.int64))

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of tokens; words are joined by spaces."""
        tokens = [self.tokens[number] for number in numbers]
        if self.unit == "characters":
            return "".join(tokens)
        return " ".join(tokens).replace(f" {NEWLINE} ", NEWLINE).replace(f" {NEWLINE}", NEWLINE)

    def unknown(self, text: str) -> list[str]:
        """The tokens of a text that are not known, each once, in their order."""
        return [token for token in dict.fromkeys(split(text, self.unit)) if token not in self._places]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self.tokens)}
