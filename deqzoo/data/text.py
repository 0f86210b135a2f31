"""Texts for language models: contiguous parts, a vocabulary from the training part, windows of tokens."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from deqzoo.data.config import DataConfig, TextDataConfig
from deqzoo.data.files import CorruptDataError, DataNotFoundError, fetch, read_file
from deqzoo.data.info import IGNORED, TextInfo
from deqzoo.data.loader import TensorLoader, generator
from deqzoo.data.module import TensorData
from deqzoo.data.text_sets import OWN, text_set
from deqzoo.data.text_sets import rows as rows
from deqzoo.data.vocabulary import UNKNOWN, Vocabulary
from deqzoo.errors import ConfigError
from deqzoo.implicit.sending import send

PARTS = ("train", "val", "test")
_TRAIN, _VAL = 0.9, 0.05  # shares of a text in one file; the rest is for the test


class TextData(TensorData):
    """A text whose training, validation and test part lie one after the other.

    A batch is (inputs, targets), (B, length) int64 each, the targets one token further on. In training the windows lie
    side by side, in another cut of the text each epoch. In validation and test each token but a part's first is
    scored once: windows overlap by ``context`` tokens, which are targets of the window before and `IGNORED` here.

    After `setup`, ``tensors`` holds all tokens, (N,), and ``spans`` the first and the end of each part.

    Args:
        name: the text; `deqzoo.data.text_sets.TEXT_SETS` has them.
        seed: of the order of the windows and of their cut.
        options: the fields of `deqzoo.data.config.TextDataConfig`.

    Raises:
        ValueError: an unknown name, a missing ``file``, or a part that is shorter than a window (in `setup`).
        DataNotFoundError, CorruptDataError: a file is missing, or not what was published.
    """

    Config: ClassVar[type[DataConfig]] = TextDataConfig

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        super().__init__(name, seed=seed, **options)
        self.spec = text_set(name)
        if (name == OWN) != (self.options.file is not None):
            raise ValueError(f"data={OWN} and data.file=PATH belong together: they name a text file of yours")
        self.spans: dict[str, tuple[int, int]] = {}

    @property
    def info(self) -> TextInfo:
        """Unit, vocabulary and window; reads the text where its vocabulary is not known without."""
        return TextInfo(self.vocabulary.unit, self.vocabulary.tokens, self.options.length)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Of the training part."""
        if self.spec.characters is not None and self.options.min_count == 1:
            return Vocabulary((UNKNOWN, *self.spec.characters), self.spec.unit)
        self.prepare_data()
        return Vocabulary.of(self._texts()["train"], self.spec.unit, self.options.min_count)

    def prepare_data(self) -> None:
        """Download what is missing (Lightning calls this in one process of a machine)."""
        if self.options.file is None:
            fetch(self.spec, self.options.root, download=self.options.download)

    def setup(self, stage: str | None = None) -> None:
        """Read the text as tokens; whatever the ``stage``, all parts are there afterwards."""
        if self.tensors is not None:
            return
        parts = [self.vocabulary.encode(text) for text in self._texts().values()]
        begin = 0
        for name, part in zip(PARTS, parts, strict=True):
            if len(part) < 2 * self.options.length:
                raise ConfigError(
                    f"the {name} part of {self.options.name} has {len(part):,} {self.spec.unit}, which is less than "
                    f"two windows: lower data.length={self.options.length}, and data.context below it"
                )
            self.spans[name] = begin, begin + len(part)
            begin += len(part)
        self.tensors = (torch.cat(parts).int(),)

    def make_loader(self, part: str, batch_size: int, train: bool, **options: Any) -> "WindowLoader":
        """Windows of a part, in another order and cut each epoch if ``train``."""
        assert self.tensors is not None
        length, context = self.options.length, self.options.context
        return WindowLoader(
            self.tensors[0], self.spans[part], length, context, batch_size=batch_size, shuffle=train, **options
        )

    def _texts(self) -> Mapping[str, str]:
        """The text of each part."""
        if self.options.file is not None:
            contents = [_own_text(Path(self.options.file).expanduser())]
        else:
            folder = fetch(self.spec, self.options.root, download=False)
            contents = [read_file(folder, name, md5).decode() for name, md5 in self.spec.files.items()]
        if len(contents) == 1:
            (text,) = contents
            first, second = int(_TRAIN * len(text)), int((_TRAIN + _VAL) * len(text))
            contents = [text[:first], text[first:second], text[second:]]
        return dict(zip(PARTS, contents, strict=True))


class WindowLoader(TensorLoader):
    """Batches (inputs, targets) of windows of a part of a sequence; see `TextData`.

    Args:
        tokens: (N,) integers.
        span: the first token of the part, and the end of the part.
        length: tokens of a window.
        context: tokens by which windows overlap, unless they are shuffled.
        batch_size, shuffle, options: as `TensorLoader` has them.

    >>> loader = WindowLoader(torch.arange(10), (0, 8), length=4, context=2, batch_size=9)
    >>> next(iter(loader))  # the last window ends with the part
    (tensor([[0, 1, 2, 3],
            [2, 3, 4, 5],
            [3, 4, 5, 6]]), tensor([[   1,    2,    3,    4],
            [-100, -100,    5,    6],
            [-100, -100, -100,    7]]))
    """

    def __init__(
        self,
        tokens: Tensor,
        span: tuple[int, int],
        length: int,
        context: int,
        *,
        batch_size: int,
        shuffle: bool = False,
        **options: Any,
    ) -> None:
        begin, end = span
        spare = end - begin - 1 - length  # tokens from the beginning of the first window to that of the last
        self.begin, self.last, self.length = begin, begin + spare, length
        self.stride = length if shuffle else length - context
        windows = (spare + 1) // length if shuffle else 1 - (-spare // self.stride)
        super().__init__((tokens,), torch.arange(windows), batch_size, shuffle=shuffle, **options)

    def _make_batch(self, indices: Tensor) -> tuple[Tensor, ...]:
        starts = self.begin + indices * self.stride
        if self.shuffle:
            starts = starts + int(torch.randint(self.length, (), generator=generator(self.seed, self.epoch, 0)))
        places = starts.clamp(max=self.last).unsqueeze(1) + torch.arange(self.length + 1, device=starts.device)
        (windows,) = super()._make_batch(places)
        inputs, targets = windows[:, :-1].long(), windows[:, 1:].long()
        if not self.shuffle:
            fresh = torch.where(indices > 0, starts - self.stride + self.length, self.begin).unsqueeze(1)
            targets = targets.masked_fill(send(places[:, 1:] <= fresh, targets.device), IGNORED)
        return inputs, targets


def _own_text(path: Path) -> str:
    if not path.is_file():
        raise DataNotFoundError(f"data.file={path}: there is no such file.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorruptDataError(f"data.file={path} is not a text in UTF-8: {error}.") from error
