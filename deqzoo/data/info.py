"""What a network must know of its data: the ``data`` section of a checkpoint's ``config.json``. Imports no torch."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from deqzoo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class DataInfo:
    """The base of the others. A field with a default may be missing in a ``config.json``: older files lack it.

    Attributes:
        items: what the samples of such a set are called, in the plural.
    """

    items: ClassVar[str] = "samples"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_json` wrote; an unknown or missing key is a `ConfigError`."""
        fields = dataclasses.fields(cls)
        required = {item.name for item in fields if item.default is dataclasses.MISSING}
        valid = {item.name for item in fields}
        if wrong := (set(values) - valid) | (required - set(values)):
            listed = ", ".join(sorted(wrong))
            raise ConfigError(f"data has unknown or missing keys: {listed}; it has {', '.join(sorted(valid))}.")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ImageInfo(DataInfo):
    """Labelled images.

    Attributes:
        in_channels: channels of an image.
        classes: names of the labels.
        mean, std: of the training images, per channel, for pixels in [0, 1].
        size: (height, width), which only some networks ask for.
        levels: values that a pixel may have, 0 to 1 in equal steps.
    """

    items: ClassVar[str] = "images"

    in_channels: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None
    levels: int = 256


@dataclasses.dataclass(frozen=True)
class PointInfo(DataInfo):
    """Labelled points of a space.

    Attributes:
        in_features: dimension of the space.
        classes: names of the labels.
    """

    items: ClassVar[str] = "points"

    in_features: int
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class DensityInfo(DataInfo):
    """Points drawn from a known density.

    Attributes:
        in_features: dimension of the space.
        density: its name in `deqzoo.data.densities.DENSITIES`.
    """

    items: ClassVar[str] = "points"

    in_features: int
    density: str


IGNORED = -100  # the target of a token that is not scored, as torch's cross-entropy has it


@dataclasses.dataclass(frozen=True)
class TextInfo(DataInfo):
    """Text as a sequence of tokens.

    Attributes:
        unit: what a token is, "characters" or "words".
        vocabulary: the tokens, the first of which stands for all that are not known.
        length: tokens of a window in training.
    """

    items: ClassVar[str] = "tokens"

    unit: str
    vocabulary: tuple[str, ...]
    length: int


@dataclasses.dataclass(frozen=True)
class SeriesInfo(DataInfo):
    """Series at common times, of which a window is shown.

    Attributes:
        channels: of a series.
        mean, std: of the measured training values, per channel.
        count: series for training.
        window: the time at which the window ends.
        parameters: of the law that made the series, where it is known.
    """

    items: ClassVar[str] = "series"

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    count: int
    window: float
    parameters: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class LabelledSeriesInfo(DataInfo):
    """Labelled series at common times, with missing values.

    Attributes:
        channels: of a series.
        mean, std: of the training values that are shown, per channel.
        classes: names of the labels.
        dropped: fraction of the values that are never shown.
    """

    items: ClassVar[str] = "series"

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    dropped: float


@dataclasses.dataclass(frozen=True)
class StayInfo(DataInfo):
    """Stays in intensive care: series at common times, with missing values, and a label each.

    Attributes:
        channels: of a series.
        mean, std: of the training values, per channel, without the outermost.
        low, high: the least and the largest of them.
        classes: names of the labels.
        split: seed of the draw of the stays for training, validation and test.
    """

    items: ClassVar[str] = "stays"

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    classes: tuple[str, ...]
    split: int


@dataclasses.dataclass(frozen=True)
class OrbitInfo(DataInfo):
    """Orbits of a mechanical system.

    Attributes:
        system: its name in `deqzoo.data.mechanics.MECHANICS`.
        dim: positions of a state, which has as many momenta.
        spacing: time between two states.
    """

    items: ClassVar[str] = "starts"

    system: str
    dim: int
    spacing: float


@dataclasses.dataclass(frozen=True)
class GraphInfo(DataInfo):
    """A graph whose nodes have features and labels.

    Attributes:
        in_features: of a node.
        classes: names of the labels.
    """

    items: ClassVar[str] = "nodes"

    in_features: int
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RegressionTaskInfo(DataInfo):
    """Regression tasks, of each of which a few points are given.

    Attributes:
        in_features, out_features: of a point and its target.
        shots: points given.
    """

    items: ClassVar[str] = "tasks"

    in_features: int
    out_features: int
    shots: int


@dataclasses.dataclass(frozen=True)
class FewShotInfo(DataInfo):
    """Few-shot episodes of images.

    Attributes:
        in_channels: channels of an image.
        size: (height, width).
        mean, std: a channel, for pixels in [0, 1].
        ways: classes of an episode.
        shots: images of each class to learn from.
    """

    items: ClassVar[str] = "episodes"

    in_channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ways: int
    shots: int


@dataclasses.dataclass(frozen=True)
class NoisyImageInfo(DataInfo):
    """Labelled images, many of them with a wrong label.

    Attributes:
        shape: (channels, height, width).
        classes: names of the labels.
        count: images in the training set.
    """

    items: ClassVar[str] = "images"

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    count: int


@dataclasses.dataclass(frozen=True)
class SudokuInfo(DataInfo):
    """Sudoku puzzles.

    Attributes:
        side: cells of a row, and the number of digits.
    """

    items: ClassVar[str] = "puzzles"

    side: int


@dataclasses.dataclass(frozen=True)
class MazeInfo(DataInfo):
    """Mazes, of which a network need know nothing before."""

    items: ClassVar[str] = "mazes"


@dataclasses.dataclass(frozen=True)
class FewImageInfo(DataInfo):
    """Few labelled images, beside others to learn hyperparameters by.

    Attributes:
        shape: (channels, height, width).
        classes: names of the labels.
    """

    items: ClassVar[str] = "images"

    shape: tuple[int, int, int]
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class PictureInfo(DataInfo):
    """Pictures of which each pixel is to be known.

    Attributes:
        pictures: their names.
        side: pixels of a side.
    """

    items: ClassVar[str] = "pixels"

    pictures: tuple[str, ...]
    side: int
